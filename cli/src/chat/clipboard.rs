//! The clipboard of the person's own terminal, by OSC 52: it works over SSH, where no program could reach a clipboard.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Terminals take no more: xterm stops there, others before.
const LONGEST: usize = 74_994;

/// The sequence that copies a text; `None` when it is too long for terminals.
pub fn copy(text: &str, inside_tmux: bool) -> Option<String> {
    let encoded = STANDARD.encode(text);
    if encoded.len() > LONGEST {
        return None;
    }
    let sequence = format!("\x1b]52;c;{encoded}\x07");
    Some(match inside_tmux {
        // tmux hands on what is wrapped so, with every escape doubled.
        true => format!("\x1bPtmux;{}\x1b\\", sequence.replace('\x1b', "\x1b\x1b")),
        false => sequence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_to_the_terminal_in_base64() {
        assert_eq!(copy("hi", false).as_deref(), Some("\x1b]52;c;aGk=\x07"));
        assert_eq!(
            copy("hi", true).as_deref(),
            Some("\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\")
        );
    }

    #[test]
    fn what_no_terminal_takes_is_not_sent() {
        assert_eq!(copy(&"a".repeat(60_000), false), None);
    }
}
