//! What is done once the broker is unlocked, one after another: never one within another,
//! or a queue of expired messages, each of which lets the next one go, would need a stack
//! as deep as it is long.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use crate::inbox::Wake;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static LATER: RefCell<VecDeque<Wake>> = const { RefCell::new(VecDeque::new()) };
}

/// Ends the running also where something panics.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(false);
    }
}

/// Does it, or leaves it to whoever further up the stack is doing just that.
pub(crate) fn run_one(wake: Wake) {
    if RUNNING.replace(true) {
        LATER.with_borrow_mut(|later| later.push_back(wake));
        return;
    }
    let _running = Running;
    wake.run();
    run_later();
}

/// Does it all, or leaves it to whoever further up the stack is doing just that. All of it goes
/// before what it entails: deliveries that were made earlier arrive earlier.
pub(crate) fn run(wakes: impl IntoIterator<Item = Wake>) {
    LATER.with_borrow_mut(|later| later.extend(wakes));
    if RUNNING.replace(true) {
        return;
    }
    let _running = Running;
    run_later();
}

fn run_later() {
    while let Some(next) = LATER.with_borrow_mut(VecDeque::pop_front) {
        next.run();
    }
}
