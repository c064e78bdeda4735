//! Server-sent events, as far as a log needs them: `id:` and `data:`. Pure; never fails, whatever the bytes are.

/// The longest line that is kept; what is beyond it is dropped up to the line's end.
const LONGEST_LINE: usize = 64 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// What `Last-Event-ID` resumes after.
    pub(super) id: Option<String>,
    /// Its `data:` lines, joined by line feeds.
    pub(super) data: String,
}

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes and returns the events they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut done = Vec::new();
        for &byte in bytes {
            let lf_of_crlf = std::mem::take(&mut self.after_cr) && byte == b'\n';
            match byte {
                b'\n' if lf_of_crlf => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    done.extend(self.end_line());
                }
                _ if self.line.len() < LONGEST_LINE => self.line.push(byte),
                _ => {}
            }
        }
        done
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                if self.event.data.len() + value.len() <= LONGEST_LINE {
                    self.event.data.push_str(value);
                }
            }
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            // Comments (an empty field name), `event:` and `retry:` mean nothing to a log.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(id: &str, data: &str) -> Event {
        Event {
            id: Some(id.into()),
            data: data.into(),
        }
    }

    #[test]
    fn events_are_cut_wherever_the_bytes_are() {
        let text = b": hello\nid: 1\ndata: a\ndata:b\n\nid:2\r\ndata: c\r\n\r\ndata: unfinished";
        let want = vec![event("1", "a\nb"), event("2", "c")];
        for cut in 0..text.len() {
            let mut parser = Parser::default();
            let mut seen = parser.push(&text[..cut]);
            seen.extend(parser.push(&text[cut..]));
            assert_eq!(seen, want, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let mut parser = Parser::default();
        for _ in 0..40 {
            assert!(parser.push(&[b'x'; 64 * 1024]).is_empty());
        }
        assert!(parser.line.len() <= LONGEST_LINE);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_events(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let mut whole = Parser::default();
            let mut pieces = Parser::default();
            let cut = cut.min(bytes.len());
            let mut seen = pieces.push(&bytes[..cut]);
            seen.extend(pieces.push(&bytes[cut..]));
            prop_assert_eq!(seen, whole.push(&bytes));
        }
    }
}
