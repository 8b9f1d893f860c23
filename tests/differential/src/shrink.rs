//! Makes a failing sequence short. Every part of a sequence is a sequence, because operations that
//! have nothing to do are left out; so it is enough to leave out what is not needed.

use crate::op::Op;

/// The shortest sequence that is found to fail: without any of its operations it passes.
pub async fn shrink(ops: &[Op], mut fails: impl AsyncFnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut best = ops.to_vec();
    let mut size = best.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        let mut shorter = false;
        while start < best.len() {
            let end = (start + size).min(best.len());
            let without: Vec<Op> = [&best[..start], &best[end..]].concat();
            if fails(&without).await {
                best = without;
                shorter = true;
            } else {
                start = end;
            }
        }
        // With what is gone, something else may have become unneeded.
        if size > 1 || !shorter {
            size /= 2;
        }
    }
    for at in 0..best.len() {
        if let Op::Publish { to, count, manner } = best[at].clone()
            && count > 1
        {
            let mut fewer = best.clone();
            fewer[at] = Op::Publish { to, count: 1, manner };
            if fails(&fewer).await {
                best = fewer;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_needed_goes() {
        let ops: Vec<Op> = (0..40)
            .map(|n| if n % 13 == 5 { Op::Restart } else { Op::Delete(n.to_string()) })
            .collect();
        let needs =
            async |ops: &[Op]| ops.contains(&Op::Delete("7".into())) && ops.contains(&Op::Restart);
        assert_eq!(shrink(&ops, needs).await, [Op::Restart, Op::Delete("7".into())]);
    }
}
