//! Responses made at random: most of them well-formed, the others nearly.

use bytes::Bytes;

use super::wire::{Case, End, To};

/// Numbers that look like chance and are the same each time (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them, the first half of the time.
    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        if self.once_in(2) {
            of[0]
        } else {
            of[self.below(of.len())]
        }
    }

    fn any<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const VERSIONS: &[&str] = &[
    "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.0", "HTTP/2.0", "http/1.1", "HTTP/1.2",
];

const STATUSES: &[&str] = &[
    "200", "200", "200", "201", "204", "205", "206", "301", "304", "400", "401", "429", "500",
    "503", "599", "600", "999", "099", "20", "2000", "2x0", "101", "000",
];

const REASONS: &[&[u8]] = &[
    b" OK",
    b" OK",
    b"",
    b" ",
    b" Fine",
    b" Not Found",
    b" Zu viel f\xc3\xbcr uns",
    b" \xe9",
    b"  two  ",
    b" a\tb",
    b" OK ",
    b" a\0b",
    b" a\x7fb",
];

const INTERIM: &[&str] = &[
    "100 Continue",
    "102 Processing",
    "103 Early Hints",
    "199 ",
    "110",
    "101 Switching Protocols",
];

const FIELDS: &[&[u8]] = &[
    b"Content-Type: text/event-stream",
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
    b"x-request-id:abc",
    b"X-REQUEST-ID: \tdef\t ",
    b"Set-Cookie: a=b",
    b"set-cookie: c=d",
    b"Connection: keep-alive",
    b"Connection: close",
    b"connection: Keep-Alive, X-Hop",
    b"Connection: x-hop , CLOSE",
    b"Connection: content-type,,",
    b"Connection: \xe9, close",
    b"Connection: transfer-encoding, content-length",
    b"Connection:",
    b"X-Hop: 1",
    b"Keep-Alive: timeout=5",
    b"Proxy-Authenticate: Basic",
    b"Proxy-Authorization: x",
    b"Proxy-Connection: close",
    b"TE: trailers",
    b"Trailer: x-sum",
    b"Upgrade: h2c",
    b"empty:",
    b"obs: \xe9t\xe9",
    b"tab: a\tb",
    b"quoted: \"a, b\"",
];

const BAD_FIELDS: &[&[u8]] = &[
    b"no colon",
    b"space : before",
    b": no name",
    b" folded: at the start",
    b"nul: a\0b",
    b"cr: a\rb",
    b"del: a\x7fb",
    b"n\xc3\xa4me: a",
    b"(name): a",
    b"fold: a\r\n b",
    b"bare: a\nline: b",
];

const LENGTHS: &[&str] = &[
    "+{}",
    "-{}",
    "{}, {}",
    "{},{}",
    "{},1",
    "0{}",
    "0x{}",
    "{}.0",
    "{} 1",
    "",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "\t{}\t",
];

const CODINGS: &[&str] = &[
    "Chunked",
    "CHUNKED",
    "gzip, chunked",
    "chunked, gzip",
    "identity",
    "chunked, chunked",
    "chunked;q=1",
    "\tchunked ",
    "xchunked",
    "",
    "chunked,",
    ",chunked",
];

const SIZES: &[&str] = &[
    "{:x}",
    "{:x}",
    "{:x}",
    "{:X}",
    "000{:x}",
    "00000000000000000000{:x}",
    "{:x} ",
    "{:x}\t",
    "{:x} ;a",
    "{:x};a=b",
    "{:x};a=\"b;\"",
    "{:x};a\0",
    "{:x} 1",
    " {:x}",
    "0x{:x}",
    "+{:x}",
    "{:x}\r",
    "fffffffffffffffff",
    "-1",
    "",
    "{:x};\n",
    "{:x} x",
];

const TRAILERS: &[&[u8]] = &[
    b"x-sum: 1\r\n",
    b"X-Sum: 2\r\n",
    b"x-end:\r\n",
    b"obs: \xe9\r\n",
    b"Connection: close\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"no colon\r\n",
    b"bare: a\n",
    b"bare: a\nline: b\r\n",
    b"\nbare: a\r\n",
    b"a: b\n\nc: d\r\n",
    b"fold: a\r\n b\r\n",
    b"nul: \0\r\n",
    b"cr: a\rb\r\n",
    b" space: a\r\n",
    b"space : a\r\n",
];

const BEHIND: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"\r\n",
    b"\0",
    b"x",
    b"0\r\n\r\n",
];

const EDITS: &[u8] = b"\r\n\0 \t:;,0159afxX\"\x7f\x80\xff/HTP.-+";

pub(super) fn case(random: &mut Random) -> Case {
    let mut bytes = response(random);
    if random.once_in(12) {
        bytes.extend_from_slice(random.any(BEHIND));
    }
    if random.once_in(4) {
        for _ in 0..=random.below(3) {
            edit(random, &mut bytes);
        }
    }
    if random.once_in(6) {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    Case {
        to: match random.below(14) {
            0..=7 => To::Get,
            8 | 9 => To::Head,
            10 | 11 => To::Unread,
            _ => To::Unfinished,
        },
        pieces: split(random, bytes.into()),
        end: match random.below(10) {
            0..=4 => End::Close,
            5..=8 => End::Silent,
            _ => End::Reset,
        },
    }
}

fn response(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    if random.once_in(40) {
        out.extend_from_slice(random.any(&[
            b"\r\n".as_slice(),
            b"\n",
            b" ",
            b"\r\n\r\n",
            b"x\r\n",
        ]));
    }
    let interim = match random.below(60) {
        0..=4 => 1,
        5 | 6 => 2,
        7 => 32 + random.below(2),
        _ => 0,
    };
    for _ in 0..interim {
        let status = random.pick(INTERIM);
        out.extend_from_slice(format!("HTTP/1.1 {status}\r\n").as_bytes());
        fields(random, &mut out, &mut Vec::new());
    }

    out.extend_from_slice(random.pick(VERSIONS).as_bytes());
    out.push(b' ');
    out.extend_from_slice(random.pick(STATUSES).as_bytes());
    out.extend_from_slice(random.pick(REASONS));
    out.extend_from_slice(b"\r\n");

    let length = match random.below(200) {
        0 => 70_000,
        1..=40 => 0,
        _ => random.below(40),
    };
    let data: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    let (mut framing, body) = framed(random, &data);
    fields(random, &mut out, &mut framing);
    out.extend_from_slice(&body);
    out
}

/// Fields, those of the framing among them, and the end of the section.
fn fields(random: &mut Random, out: &mut Vec<u8>, framing: &mut Vec<String>) {
    let count = match random.below(100) {
        0 => 98 + random.below(6),
        1 => 126 + random.below(4),
        _ => random.below(6),
    };
    for _ in 0..count {
        if let Some(line) = framing.pop_if(|_| random.once_in(3)) {
            out.extend_from_slice(line.as_bytes());
        } else if random.once_in(60) {
            out.extend_from_slice(random.any(BAD_FIELDS));
        } else {
            out.extend_from_slice(random.any(FIELDS));
        }
        let end: &[u8] = if random.once_in(80) { b"\n" } else { b"\r\n" };
        out.extend_from_slice(end);
    }
    for line in framing.drain(..) {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if random.once_in(400) {
        out.extend_from_slice(
            format!("big: {}\r\n", "x".repeat(65_500 - random.below(200))).as_bytes(),
        );
    }
    let end: &[u8] = if random.once_in(100) { b"\n" } else { b"\r\n" };
    out.extend_from_slice(end);
}

/// The fields that frame a body of this data, and the body.
fn framed(random: &mut Random, data: &[u8]) -> (Vec<String>, Vec<u8>) {
    let length = data.len();
    let told = |length: usize| format!("Content-Length: {length}");
    let chunked = || "Transfer-Encoding: chunked".to_owned();
    match random.below(100) {
        0..=24 => (vec![told(length)], data.into()),
        25..=59 => (vec![chunked()], chunks(random, data)),
        60..=69 => (vec![], data.into()),
        70..=72 => (vec![told(length + 1)], data.into()),
        73..=75 => (vec![told(length.saturating_sub(1))], data.into()),
        76..=79 => (vec![told(length), chunked()], chunks(random, data)),
        80..=82 => (vec![told(length), told(length)], data.into()),
        83..=84 => (vec![told(length), told(length + 1)], data.into()),
        85..=90 => {
            let value = random.any(LENGTHS).replace("{}", &length.to_string());
            (vec![format!("Content-Length: {value}")], data.into())
        }
        91..=92 => (vec![chunked(), chunked()], chunks(random, data)),
        93 => (
            vec!["Transfer-Encoding: gzip".into(), chunked()],
            chunks(random, data),
        ),
        _ => {
            let coding = random.any(CODINGS);
            (
                vec![format!("Transfer-Encoding: {coding}")],
                chunks(random, data),
            )
        }
    }
}

fn chunks(random: &mut Random, mut data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !data.is_empty() {
        let (chunk, rest) = data.split_at(1 + random.below(data.len()));
        size(random, chunk.len(), &mut out);
        out.extend_from_slice(chunk);
        let end: &[u8] = match random.below(100) {
            0 => b"\n",
            1 => b"\r",
            2 => b"",
            3 => b"x\r\n",
            _ => b"\r\n",
        };
        out.extend_from_slice(end);
        data = rest;
    }
    size(random, 0, &mut out);
    if random.once_in(3) {
        for _ in 0..random.below(4) {
            out.extend_from_slice(random.pick(TRAILERS));
        }
        if random.once_in(60) {
            out.extend_from_slice(&b"many: 1\r\n".repeat(98 + random.below(34)));
        }
        if random.once_in(60) {
            let length = 16_370 + random.below(20);
            out.extend_from_slice(format!("long: {}\r\n", "x".repeat(length)).as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn size(random: &mut Random, length: usize, out: &mut Vec<u8>) {
    let usual = "{:x}";
    let spelling = if random.once_in(8) {
        random.any(SIZES)
    } else {
        usual
    };
    let spelled = spelling.replace("{:x}", &format!("{length:x}"));
    let spelled = spelled.replace("{:X}", &format!("{length:X}"));
    out.extend_from_slice(spelled.as_bytes());
    if random.once_in(300) {
        out.extend_from_slice(format!(";{}", "x".repeat(4090 + random.below(12))).as_bytes());
    }
    let end: &[u8] = match random.below(150) {
        0 => b"\n",
        1 => b"\r",
        _ => b"\r\n",
    };
    out.extend_from_slice(end);
}

fn edit(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let byte = match random.once_in(3) {
        true => random.next() as u8,
        false => EDITS[random.below(EDITS.len())],
    };
    match random.below(4) {
        0 => bytes.insert(at, byte),
        1 if at < bytes.len() => {
            bytes.remove(at);
        }
        2 => {
            let end = (at + random.below(30)).min(bytes.len());
            let repeated = bytes[at..end].to_vec();
            bytes.splice(at..at, repeated);
        }
        _ if at < bytes.len() => bytes[at] = byte,
        _ => {}
    }
}

/// The bytes in up to five pieces.
fn split(random: &mut Random, mut bytes: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for _ in 0..random.below(5) {
        pieces.push(bytes.split_to(random.below(bytes.len() + 1)));
    }
    pieces.push(bytes);
    pieces
}
