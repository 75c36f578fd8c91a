//! The tokens that an answer says it used.

use std::fmt;

use super::tap::object::{self, Members, Unread};

/// What an answer says it used: the object under its `usage`, as the backend sent it.
///
/// Providers name the fields differently; each method lists the names that it knows, of which the
/// first one found counts. `…_details` stands for `prompt_tokens_details`, `input_tokens_details` and
/// `input_token_details`, or for the same of `completion` and `output`. What isn't there, or isn't a
/// non-negative number, is `None`. Nothing is computed or estimated.
#[derive(Clone, PartialEq)]
pub struct Usage {
    fields: Fields,
    bytes: Box<[u8]>,
}

impl Usage {
    pub(super) fn new(fields: Fields, bytes: &[u8]) -> Self {
        Self {
            fields,
            bytes: bytes.into(),
        }
    }

    fn count(&self, count: Count) -> Option<u64> {
        let count = self.fields.counts[count as usize];
        (count != ABSENT).then_some(count)
    }

    /// `prompt_tokens`, `input_tokens`.
    pub fn input_tokens(&self) -> Option<u64> {
        self.count(Count::Input)
    }

    /// `completion_tokens`, `output_tokens`.
    pub fn output_tokens(&self) -> Option<u64> {
        self.count(Count::Output)
    }

    /// `total_tokens`.
    pub fn total_tokens(&self) -> Option<u64> {
        self.count(Count::Total)
    }

    /// Of the input, read from a cache: `…_details.cached_tokens`, `prompt_cache_hit_tokens`,
    /// `cache_read_input_tokens`, `cached_tokens`.
    pub fn cache_read_tokens(&self) -> Option<u64> {
        self.count(Count::CacheRead)
    }

    /// Of the input, written to a cache: `…_details.cache_write_tokens`,
    /// `cache_creation_input_tokens`.
    pub fn cache_write_tokens(&self) -> Option<u64> {
        self.count(Count::CacheWrite)
    }

    /// Of the output, reasoning: `…_details.reasoning_tokens`.
    pub fn reasoning_tokens(&self) -> Option<u64> {
        self.count(Count::Reasoning)
    }

    /// Of the input, text: `…_details.text_tokens`.
    pub fn input_text_tokens(&self) -> Option<u64> {
        self.count(Count::InputText)
    }

    /// Of the input, audio: `…_details.audio_tokens`.
    pub fn input_audio_tokens(&self) -> Option<u64> {
        self.count(Count::InputAudio)
    }

    /// Of the input, images: `…_details.image_tokens`.
    pub fn input_image_tokens(&self) -> Option<u64> {
        self.count(Count::InputImage)
    }

    /// Of the output, text: `…_details.text_tokens`.
    pub fn output_text_tokens(&self) -> Option<u64> {
        self.count(Count::OutputText)
    }

    /// Of the output, audio: `…_details.audio_tokens`.
    pub fn output_audio_tokens(&self) -> Option<u64> {
        self.count(Count::OutputAudio)
    }

    /// Of the output, images: `…_details.image_tokens`.
    pub fn output_image_tokens(&self) -> Option<u64> {
        self.count(Count::OutputImage)
    }

    /// Seconds of audio: `seconds`, `prompt_audio_seconds`.
    pub fn audio_seconds(&self) -> Option<f64> {
        self.fields.audio_seconds
    }

    /// `cost`, in the backend's own unit.
    pub fn cost(&self) -> Option<f64> {
        self.fields.cost
    }

    /// The object as the backend sent it, JSON of at most 4,096 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usage")
            .field("input_tokens", &self.input_tokens())
            .field("output_tokens", &self.output_tokens())
            .field("total_tokens", &self.total_tokens())
            .finish_non_exhaustive()
    }
}

/// What is counted.
#[derive(Clone, Copy)]
enum Count {
    Input,
    Output,
    Total,
    CacheRead,
    CacheWrite,
    Reasoning,
    InputText,
    InputAudio,
    InputImage,
    OutputText,
    OutputAudio,
    OutputImage,
}

const COUNTS: usize = Count::OutputImage as usize + 1;

/// No count, as they have at most 63 bits.
const ABSENT: u64 = u64::MAX;

/// The fields of a usage object.
#[derive(Clone, PartialEq)]
pub(super) struct Fields {
    counts: [u64; COUNTS],
    audio_seconds: Option<f64>,
    cost: Option<f64>,
}

/// The fields of an object, while it is read: where two names stand for the same, that of the lower
/// rank counts.
struct Reading {
    fields: Fields,
    ranks: [u8; COUNTS],
    seconds_rank: u8,
    /// It has a field that makes it a usage object.
    is_usage: bool,
}

/// Whose details an object has.
#[derive(Clone, Copy)]
enum Side {
    Input,
    Output,
}

impl Fields {
    /// Those of the object at the beginning of `text`, and how long it is. `Ok(None)` if it is no
    /// usage object.
    pub(super) fn read(text: &[u8]) -> Result<(Option<Self>, usize), Unread> {
        let mut reading = Reading {
            fields: Self {
                counts: [ABSENT; COUNTS],
                audio_seconds: None,
                cost: None,
            },
            ranks: [u8::MAX; COUNTS],
            seconds_rank: u8::MAX,
            is_usage: false,
        };
        let mut members = Members::of(text)?;
        while let Some(key) = members.key()? {
            reading.member(key, &mut members)?;
        }
        let fields = reading.is_usage.then_some(reading.fields);
        Ok((fields, members.end()))
    }
}

impl Reading {
    fn member(&mut self, key: &[u8], members: &mut Members<'_>) -> Result<(), Unread> {
        let details = match key {
            b"prompt_tokens_details" => (Side::Input, 0),
            b"input_tokens_details" => (Side::Input, 1),
            b"input_token_details" => (Side::Input, 2),
            b"completion_tokens_details" => (Side::Output, 0),
            b"output_tokens_details" => (Side::Output, 1),
            b"output_token_details" => (Side::Output, 2),
            _ => {
                self.total(key, members.value()?);
                return Ok(());
            }
        };
        let (side, rank) = details;
        members.within(|key, value| self.detail(side, rank, key, value))
    }

    fn total(&mut self, key: &[u8], value: &[u8]) {
        match key {
            b"prompt_tokens" => self.is_usage |= self.count(Count::Input, 0, value),
            b"input_tokens" => self.is_usage |= self.count(Count::Input, 1, value),
            b"completion_tokens" => self.is_usage |= self.count(Count::Output, 0, value),
            b"output_tokens" => self.is_usage |= self.count(Count::Output, 1, value),
            b"total_tokens" => self.is_usage |= self.count(Count::Total, 0, value),
            b"prompt_cache_hit_tokens" => _ = self.count(Count::CacheRead, 3, value),
            b"cache_read_input_tokens" => _ = self.count(Count::CacheRead, 4, value),
            b"cached_tokens" => _ = self.count(Count::CacheRead, 5, value),
            b"cache_creation_input_tokens" => _ = self.count(Count::CacheWrite, 3, value),
            b"seconds" => self.is_usage |= self.seconds(0, value),
            b"prompt_audio_seconds" => _ = self.seconds(1, value),
            b"cost" => self.fields.cost = object::number(value).or(self.fields.cost),
            _ => {}
        }
    }

    fn detail(&mut self, side: Side, rank: u8, key: &[u8], value: &[u8]) {
        let count = match (key, side) {
            (b"cached_tokens", Side::Input) => Count::CacheRead,
            (b"cache_write_tokens", Side::Input) => Count::CacheWrite,
            (b"text_tokens", Side::Input) => Count::InputText,
            (b"audio_tokens", Side::Input) => Count::InputAudio,
            (b"image_tokens", Side::Input) => Count::InputImage,
            (b"reasoning_tokens", Side::Output) => Count::Reasoning,
            (b"text_tokens", Side::Output) => Count::OutputText,
            (b"audio_tokens", Side::Output) => Count::OutputAudio,
            (b"image_tokens", Side::Output) => Count::OutputImage,
            _ => return,
        };
        self.count(count, rank, value);
    }

    /// Whether the value is a count.
    fn count(&mut self, count: Count, rank: u8, value: &[u8]) -> bool {
        let Some(number) = object::count(value) else {
            return false;
        };
        let known = &mut self.ranks[count as usize];
        if rank <= *known {
            *known = rank;
            self.fields.counts[count as usize] = number;
        }
        true
    }

    /// Whether the value is a non-negative number.
    fn seconds(&mut self, rank: u8, value: &[u8]) -> bool {
        let Some(number) = object::number(value) else {
            return false;
        };
        if rank <= self.seconds_rank {
            self.seconds_rank = rank;
            self.fields.audio_seconds = Some(number);
        }
        true
    }
}
