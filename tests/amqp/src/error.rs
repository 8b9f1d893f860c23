//! What can go wrong with a broker for tests.

/// Why a broker could not be had, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no RabbitMQ on this machine. The line says what to install.
    #[error("{0}")]
    Missing(String),
    /// It is here, and did not start.
    #[error("RabbitMQ did not start: {0}")]
    Start(String),
    /// This broker can not do that: for example, one from `GEAR_TEST_AMQP_URL` can not be killed.
    #[error("{0}")]
    NotPossible(String),
    /// A command failed, or took too long.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote.
        output: String,
    },
    /// The management API refused, or gave no answer.
    #[error("{method} {path}: {answer}")]
    Management {
        /// The HTTP method.
        method: String,
        /// The path, from `/api` on.
        path: String,
        /// The answer, or why there is none.
        answer: String,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
