/// Finds the event `data: [DONE]`, which ends OpenAI's streams, in chunks that are cut anywhere.
#[derive(Default)]
pub(super) struct DoneEvent {
    /// The beginning of the current line.
    line: [u8; MAX_LINE],
    length: usize,
    was_seen: bool,
}

/// One byte more than the longest line that counts.
const MAX_LINE: usize = "data: [DONE]\r".len() + 1;

impl DoneEvent {
    pub(super) fn was_seen(&self) -> bool {
        self.was_seen
    }

    pub(super) fn scan(&mut self, mut data: &[u8]) {
        while !self.was_seen {
            let end = memchr::memchr(b'\n', data);
            let line = &data[..end.unwrap_or(data.len())];
            let taken = line.len().min(MAX_LINE - self.length);
            self.line[self.length..self.length + taken].copy_from_slice(&line[..taken]);
            self.length += taken;
            let Some(end) = end else { return };
            let line = &self.line[..self.length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.was_seen = line == b"data: [DONE]" || line == b"data:[DONE]";
            self.length = 0;
            data = &data[end + 1..];
        }
    }
}
