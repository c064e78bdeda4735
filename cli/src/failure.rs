//! How a command ends when it does not succeed: a sentence, a hint, an exit code.

/// Exit codes, as documented in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// Anything that has no code of its own.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such session, file or cluster object.
    NotFound = 3,
    /// The session does not serve (yet).
    NotReady = 4,
    /// The cluster or the gateway refuses.
    NotAllowed = 5,
    /// The model or its engine failed.
    Model = 6,
    /// A transfer did not arrive whole.
    Transfer = 7,
    /// Ctrl-C.
    Interrupted = 130,
}

/// What went wrong, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed and why, one sentence without a full stop. Empty: say nothing.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The exit code.
    pub code: Code,
    /// Whether the same act may succeed a moment later: a connection that was cut, a gateway that is being restarted.
    pub passing: bool,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code,
            passing: false,
        }
    }

    /// Ends the program without a word.
    pub fn silent(code: Code) -> Self {
        Self::new(code, "")
    }

    /// The same failure, worth another try.
    pub fn passing(self) -> Self {
        Self {
            passing: true,
            ..self
        }
    }

    /// The same failure with the way out.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// The text of an error and of what caused it, each said once: some errors already contain their source's text.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
