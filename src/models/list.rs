//! Lists of models as JSON: `{"object":"list","data":[…]}`.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::{Deserializer, value::RawValue};

use crate::json;

/// The entries of a list, from the first that hasn't been taken yet.
pub(super) struct Entries {
    /// An array, validated as part of its document.
    array: Bytes,
    /// Where its `[` is, or the comma behind the last entry taken.
    at: usize,
}

impl Entries {
    /// The `data` of a list; `None` where a document is no list.
    pub(super) fn of(document: &Bytes) -> Option<Self> {
        let data = json::field(document, "data")?.get();
        data.starts_with('[').then(|| Self {
            array: document.slice_ref(data.as_bytes()),
            at: 0,
        })
    }

    /// The next entry as it is written.
    fn next(&mut self) -> Option<&RawValue> {
        let rest = self.array.get(self.at + 1..)?;
        let mut values = Deserializer::from_slice(rest).into_iter();
        // `]` is no value.
        let entry = values.next()?.ok()?;
        let behind = &rest[values.byte_offset()..];
        let is_end = |byte: &u8| matches!(byte, b',' | b']');
        self.at += 1 + values.byte_offset() + behind.iter().position(is_end)?;
        Some(entry)
    }
}

/// The ids under which the model that a backend calls by this name is listed.
pub(super) type Ids<'a> = &'a dyn Fn(&str) -> Vec<String>;

/// Makes one list of several.
pub(super) struct Merged {
    json: Vec<u8>,
    ids: HashSet<String>,
    /// Entries without an `id` are left out: the client may not see all.
    is_restricted: bool,
}

impl Merged {
    const START: &[u8] = br#"{"object":"list","data":["#;

    /// The most bytes of a list that are appended at a time, but for the last entry.
    const STEP: usize = 16 * 1024;

    pub(super) fn new(is_restricted: bool) -> Self {
        Self {
            json: Self::START.into(),
            ids: HashSet::new(),
            is_restricted,
        }
    }

    /// Appends entries as they are written or, with `ids`, those that have any, under these. Each
    /// `id` is in the list once: an entry with one that is there already is left out.
    ///
    /// Tells whether these were all: a large list is appended in several calls, as other tasks would
    /// wait for as long.
    pub(super) fn append(&mut self, entries: &mut Entries, ids: Option<Ids<'_>>) -> bool {
        let end = entries.at + Self::STEP;
        while entries.at < end {
            let Some(entry) = entries.next() else {
                return true;
            };
            self.entry(entry.get(), ids);
        }
        false
    }

    /// Appends an entry for a model that no list has.
    pub(super) fn add(&mut self, id: &str, owner: &str) {
        if self.ids.insert(id.to_owned()) {
            let [id, owner] = [id, owner].map(serde_json::Value::from);
            let entry = format!(r#"{{"id":{id},"object":"model","created":0,"owned_by":{owner}}}"#);
            self.push(&[&entry]);
        }
    }

    fn entry(&mut self, entry: &str, ids: Option<Ids<'_>>) {
        let raw = json::field(entry.as_bytes(), "id").map(RawValue::get);
        let id = raw.and_then(|id| json::decode_string(id.as_bytes()));
        let (Some(raw), Some(name)) = (raw, id) else {
            if !self.is_restricted {
                self.push(&[entry]);
            }
            return;
        };
        let Some(ids) = ids else {
            if self.ids.insert(name) {
                self.push(&[entry]);
            }
            return;
        };
        let start = raw.as_ptr().addr() - entry.as_ptr().addr();
        let (before, after) = (&entry[..start], &entry[start + raw.len()..]);
        for id in ids(&name) {
            let renamed = (id != name).then(|| serde_json::Value::from(id.as_str()).to_string());
            if self.ids.insert(id) {
                self.push(&[before, renamed.as_deref().unwrap_or(raw), after]);
            }
        }
    }

    fn push(&mut self, entry: &[&str]) {
        if self.json.len() > Self::START.len() {
            self.json.push(b',');
        }
        for part in entry {
            self.json.extend_from_slice(part.as_bytes());
        }
    }

    pub(super) fn finish(mut self) -> Bytes {
        self.json.extend_from_slice(b"]}");
        self.json.into()
    }
}
