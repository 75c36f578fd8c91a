//! The chunked transfer coding of a response (RFC 9112, section 7.1).

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{MAX_FIELDS, Malformed};
use crate::header::retain_trailers;

/// Longest extension of a chunk. Extensions are dropped (RFC 9112, section 7.1.1).
const MAX_EXTENSION: u16 = 4096;

/// Largest trailer section, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// Chunk sizes of fewer digits are taken in one step.
const MAX_STEP: usize = 8;

/// Decodes a chunked body from input that may be split anywhere.
pub(super) struct Chunked {
    at: At,
    /// The fields that the head's `Connection` names.
    connection: Option<Box<[u8]>>,
}

enum At {
    /// In the hexadecimal size, with what it is so far.
    Size {
        size: u64,
        digits: u8,
    },
    /// In blanks after the size, with how many have come.
    Blank {
        size: u64,
        length: u16,
    },
    /// After the size, with how many bytes of an extension have come.
    Extension {
        size: u64,
        length: u16,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// After the last chunk, with the bytes of the trailer section so far.
    Trailers(Vec<u8>),
    End(Option<Box<HeaderMap>>),
    Malformed(Malformed),
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self {
            at: START,
            connection: None,
        }
    }

    /// Drops the trailers that the head's `Connection` names.
    pub(super) fn with_connection(mut self, fields: Option<Box<[u8]>>) -> Self {
        self.connection = fields;
        self
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self.at, At::End(_))
    }

    pub(super) fn has_trailers(&self) -> bool {
        matches!(self.at, At::End(Some(_)))
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.at {
            At::End(trailers) => trailers.take().map(|trailers| *trailers),
            _ => None,
        }
    }

    /// Consumes input up to the end of the next data, or all of it. Gives how much was consumed and
    /// where in it the data is: bytes of one chunk at most. Framing that follows the data is consumed
    /// as well, as far as it is there, so that the end is known with the last data.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<(usize, Range<usize>), Malformed> {
        if let Some(data) = self.at.whole(input) {
            return Ok((input.len(), data));
        }
        let mut taken = 0;
        let mut data = 0..0;
        while let Some(&byte) = input.get(taken) {
            // Nearly all framing, in one step.
            if let Some((length, at)) = self.at.step(&input[taken..]) {
                taken += length;
                self.at = at;
                continue;
            }
            self.at = match std::mem::replace(&mut self.at, At::End(None)) {
                At::Data { left } if data.is_empty() => {
                    let length = left.min((input.len() - taken) as u64);
                    data = taken..taken + length as usize;
                    taken = data.end;
                    self.at = match left - length {
                        0 => At::DataCr,
                        left => At::Data { left },
                    };
                    continue;
                }
                // Left for the next call, as is an error behind this data.
                at @ (At::Data { .. } | At::End(_)) => {
                    self.at = at;
                    break;
                }
                at => match at.after(byte, self.connection.as_deref()) {
                    Ok(at) => at,
                    Err(malformed) => {
                        self.at = At::Malformed(malformed);
                        if data.is_empty() {
                            return Err(malformed);
                        }
                        break;
                    }
                },
            };
            taken += 1;
        }
        Ok((taken, data))
    }
}

impl At {
    /// The data of a plain chunk that is all of the input, as it is of most reads.
    fn whole(&self, input: &[u8]) -> Option<Range<usize>> {
        if !matches!(self, At::Size { digits: 0, .. }) {
            return None;
        }
        let (start, size) = plain_size(input)?;
        let end = start + size;
        (input.get(end..)? == b"\r\n").then_some(start..end)
    }

    /// The length of a plain chunk size that is there whole, or of the end of a chunk's data, and
    /// where it leads.
    fn step(&self, input: &[u8]) -> Option<(usize, Self)> {
        match self {
            At::Size { digits: 0, .. } => {
                let (length, size) = plain_size(input)?;
                Some((length, At::Data { left: size as u64 }))
            }
            At::DataCr if input.starts_with(b"\r\n") => Some((2, START)),
            _ => None,
        }
    }

    /// Where a byte of framing leads.
    fn after(self, byte: u8, connection: Option<&[u8]>) -> Result<Self, Malformed> {
        Ok(match self {
            At::Size { size, digits } => match (byte as char).to_digit(16) {
                Some(_) if digits == 16 => return Err(Malformed("chunk size too large")),
                Some(digit) => At::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                },
                None if digits == 0 => return Err(Malformed("chunk size missing")),
                None => match byte {
                    b'\r' => At::SizeLf { size },
                    b' ' | b'\t' => At::Blank { size, length: 1 },
                    b';' => At::Extension { size, length: 1 },
                    _ => return Err(Malformed("invalid chunk size")),
                },
            },
            // "1 0" might be read as 1 or as 16.
            At::Blank { size, length } => match byte {
                b'\r' => At::SizeLf { size },
                b';' => At::Extension { size, length },
                b' ' | b'\t' if length < MAX_EXTENSION => At::Blank {
                    size,
                    length: length + 1,
                },
                _ => return Err(Malformed("invalid chunk size")),
            },
            At::Extension { size, length } => match byte {
                b'\r' => At::SizeLf { size },
                b'\n' => return Err(Malformed("bare LF in a chunk extension")),
                _ if length == MAX_EXTENSION => {
                    return Err(Malformed("chunk extension too long"));
                }
                _ => At::Extension {
                    size,
                    length: length + 1,
                },
            },
            At::SizeLf { size } => match (byte, size) {
                (b'\n', 0) => At::Trailers(Vec::new()),
                (b'\n', left) => At::Data { left },
                _ => return Err(Malformed("no LF after a chunk size")),
            },
            At::DataCr if byte == b'\r' => At::DataLf,
            At::DataLf if byte == b'\n' => START,
            At::DataCr | At::DataLf => return Err(Malformed("no CRLF after a chunk's data")),
            At::Trailers(section) if (byte == b'\n') != (section.last() == Some(&b'\r')) => {
                return Err(Malformed("bare CR or LF in the trailers"));
            }
            At::Trailers(mut section) => {
                section.push(byte);
                if section == b"\r\n" || section.ends_with(b"\r\n\r\n") {
                    At::End(parse_trailers(&section, connection)?)
                } else if section.len() > MAX_TRAILERS {
                    return Err(Malformed("trailers too long"));
                } else {
                    At::Trailers(section)
                }
            }
            At::Malformed(malformed) => return Err(malformed),
            at @ (At::Data { .. } | At::End(_)) => at,
        })
    }
}

/// The length of a line that has nothing but the size of a chunk with data, and the size.
fn plain_size(input: &[u8]) -> Option<(usize, usize)> {
    let mut size = 0;
    for (digits, &byte) in input[..input.len().min(MAX_STEP)].iter().enumerate() {
        match (byte as char).to_digit(16) {
            Some(digit) => size = size << 4 | digit as usize,
            None if size > 0 && input[digits..].starts_with(b"\r\n") => {
                return Some((digits + 2, size));
            }
            None => break,
        }
    }
    None
}

const START: At = At::Size { size: 0, digits: 0 };

fn parse_trailers(
    section: &[u8],
    connection: Option<&[u8]>,
) -> Result<Option<Box<HeaderMap>>, Malformed> {
    const INVALID: Malformed = Malformed("invalid trailers");
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields)
    else {
        return Err(INVALID);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| INVALID)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| INVALID)?;
        trailers.append(name, value);
    }
    retain_trailers(&mut trailers, connection);
    Ok((!trailers.is_empty()).then(|| Box::new(trailers)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes the input piece by piece: the data of each, and how much was left over.
    fn decode(pieces: &[&[u8]]) -> Result<(Vec<Vec<u8>>, Chunked, usize), Malformed> {
        let mut chunked = Chunked::new();
        let mut data = Vec::new();
        let mut left_over = 0;
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (taken, range) = chunked.advance(rest)?;
                if !range.is_empty() {
                    data.push(rest[range].to_vec());
                }
                if taken == 0 {
                    break;
                }
                rest = &rest[taken..];
            }
            left_over += rest.len();
        }
        Ok((data, chunked, left_over))
    }

    const BODY: &[u8] =
        b"3\r\nabc\r\n00A ; a=\"b\"\r\n0123456789\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n";

    #[test]
    fn chunks_are_not_joined() {
        let (data, mut chunked, left_over) = decode(&[BODY]).unwrap();
        assert_eq!(data, [b"abc".to_vec(), b"0123456789".to_vec()]);
        assert_eq!(left_over, 0);
        let trailers = chunked.take_trailers().unwrap();
        let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
        assert_eq!(sums, ["1", "2"]);
    }

    #[test]
    fn blanks_may_stand_behind_a_size() {
        let (data, chunked, _) = decode(&[b"1 \t\r\na\r\n2 ; x\r\nbc\r\n0 \r\n\r\n"]).unwrap();
        assert_eq!(data.concat(), b"abc");
        assert!(chunked.is_end());
    }

    #[test]
    fn trailers_that_concern_the_connection_are_left_out() {
        let trailers = |section: &str| {
            let body = format!("0\r\n{section}\r\n");
            let mut chunked =
                Chunked::new().with_connection(Some(b"X-Hop,x-ray".as_slice().into()));
            chunked.advance(body.as_bytes()).unwrap();
            assert!(chunked.is_end());
            chunked.take_trailers()
        };
        let some = "Connection: close\r\nX-Sum: 1\r\nTransfer-Encoding: chunked\r\n";
        let some = trailers(some).unwrap();
        assert_eq!(some.len(), 1);
        assert_eq!(some["x-sum"], "1");
        assert_eq!(trailers("Content-Length: 5\r\nKeep-Alive: x\r\n"), None);
        assert_eq!(trailers("x-hop: 1\r\nX-Ray: 2\r\n"), None);
        // `Connection` itself is no trailer, and names nothing there.
        assert_eq!(
            trailers("Connection: x-sum\r\nx-sum: 1\r\n").unwrap().len(),
            1
        );
    }

    #[test]
    fn input_may_be_split_anywhere() {
        for at in 0..=BODY.len() {
            let (head, tail) = BODY.split_at(at);
            let (data, chunked, _) = decode(&[head, tail]).unwrap();
            assert_eq!(data.concat(), b"abc0123456789", "split at {at}");
            assert!(chunked.is_end(), "split at {at}");
        }
        let bytes: Vec<_> = BODY.chunks(1).collect();
        let (data, chunked, _) = decode(&bytes).unwrap();
        assert_eq!(data.concat(), b"abc0123456789");
        assert!(chunked.is_end());
    }

    #[test]
    fn the_end_is_known_with_the_last_data() {
        let mut chunked = Chunked::new();
        let (taken, data) = chunked.advance(b"1\r\na\r\n0\r\n\r\nNEXT").unwrap();
        assert_eq!((taken, data), (11, 3..4));
        assert!(chunked.is_end());
    }

    #[test]
    fn an_unfinished_body_is_not_at_its_end() {
        for cut in 0..BODY.len() {
            let (_, chunked, _) = decode(&[&BODY[..cut]]).unwrap();
            assert!(!chunked.is_end(), "cut at {cut}");
        }
    }

    #[test]
    fn data_before_an_error_is_returned() {
        for error in [b"\n".as_slice(), b"\r\ng", b"\r\n0\r\nno colon\r\n\r\n"] {
            let input = [b"3\r\nabc", error].concat();
            let mut chunked = Chunked::new();
            let (taken, data) = chunked.advance(&input).unwrap();
            assert_eq!(&input[data], b"abc");
            assert!(taken < input.len() && !chunked.is_end());
            assert!(chunked.advance(&input[taken..]).is_err());
        }
    }

    #[test]
    fn invalid_framing_is_refused() {
        let long_extension = [b"1;".as_slice(), &[b'x'; 5000]].concat();
        let long_trailers = [b"0\r\nx: ".as_slice(), &[b'x'; 20_000]].concat();
        for body in [
            b"\r\n".as_slice(),
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b";a\r\n",
            b"1\n",
            b"1\r\r",
            b"1;a\nb",
            b"1 0\r\n",
            b"1 a=b\r\n",
            b"10000000000000000\r\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\na\rb",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n: empty name\r\n\r\n",
            b"0\r\nx : 1\r\n\r\n",
            b"0\r\nx: 1\ny: 2\r\n\r\n",
            b"0\r\nx: 1\r\r\n",
            b"0\r\nx: 1\n\nHTTP/1.1 200 OK\r\n\r\n",
            &long_extension,
            &long_trailers,
        ] {
            let text = String::from_utf8_lossy(&body[..body.len().min(40)]);
            assert!(decode(&[body]).is_err(), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_chunked_comes_out_again(
            chunks in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 1..40), 1..12usize, "(|;a=b|[ \t]{1,2})"),
                0..6,
            ),
            behind in prop::collection::vec(any::<u8>(), 0..5),
            splits in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut body = Vec::new();
            for (data, digits, extension) in &chunks {
                body.extend_from_slice(format!("{:0digits$x}{extension}\r\n", data.len()).as_bytes());
                body.extend_from_slice(data);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\nx: y\r\n\r\n");
            let end = body.len();
            body.extend_from_slice(&behind);

            let mut splits: Vec<_> = splits.iter().map(|at| at.index(end)).collect();
            splits.sort_unstable();
            splits.extend([body.len()]);
            let mut start = 0;
            let pieces = splits.iter().map(|&at| &body[std::mem::replace(&mut start, at)..at]);
            let (data, mut chunked, left_over) = decode(&pieces.collect::<Vec<_>>()).unwrap();

            let expected: Vec<_> = chunks.into_iter().map(|(data, ..)| data).collect();
            prop_assert_eq!(data.concat(), expected.concat());
            prop_assert_eq!(left_over, behind.len());
            prop_assert_eq!(&chunked.take_trailers().unwrap()["x"], "y");
        }
    }
}
