//! Reads a part's headers (RFC 7578, section 4.2).

use memchr::memmem;

use super::parameters::{has_ascii_charset, parameter, strip_prefix, token};

const MAX_FIELDS: usize = 64;

/// What the headers of a part say about its name and its encoding.
#[derive(Default)]
pub(super) struct Headers {
    fields: usize,
    /// Whether its name is `model`, once it has one.
    is_model: Option<bool>,
    /// A reader may decode its content, and so read another model than its bytes.
    is_encoded: bool,
}

impl Headers {
    /// Reads a line, without its end.
    pub(super) fn field(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err("more than 64 part headers");
        }
        if line
            .iter()
            .any(|&byte| byte.is_ascii_control() && byte != b'\t')
        {
            return Err("control character in a part header");
        }
        let (name, value) = match token(line) {
            (name, [b':', value @ ..]) if !name.is_empty() => (name, value.trim_ascii()),
            _ => return Err("malformed part header"),
        };
        if name.eq_ignore_ascii_case(b"content-disposition") {
            self.disposition(value)?;
        } else if name.eq_ignore_ascii_case(b"content-type") {
            if strip_prefix(value, b"multipart/").is_some() {
                return Err("nested multipart");
            }
            let parameters = memchr::memchr(b';', value).map_or(&b""[..], |at| &value[at..]);
            self.is_encoded |= !has_ascii_charset(parameters);
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            let identities: [&[u8]; 3] = [b"7bit", b"8bit", b"binary"];
            let is_identity = |identity: &&[u8]| value.eq_ignore_ascii_case(identity);
            self.is_encoded |= !identities.iter().any(is_identity);
        }
        Ok(())
    }

    fn disposition(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.is_model.is_some() {
            return Err("second Content-Disposition");
        }
        let parameters = strip_prefix(value, b"form-data");
        let parameters = parameters.ok_or("Content-Disposition other than form-data")?;
        let name = parameter(parameters, b"name")?.ok_or(NO_NAME)?;
        if memmem::find(&name, b"=?").is_some() {
            return Err("encoded word in a name");
        }
        self.is_model = Some(name == b"model");
        Ok(())
    }

    /// Whether it is a `model` part, after the last field.
    pub(super) fn is_model(&self) -> Result<bool, &'static str> {
        match self.is_model {
            Some(true) if self.is_encoded => Err("encoded `model` part"),
            Some(is_model) => Ok(is_model),
            None => Err(NO_NAME),
        }
    }
}

const NO_NAME: &str = "part without a name";
