//! Errors in the API's words.

use hyper::{Response, header::HeaderValue};
use serde_json::json;

use super::answer::{Script, json_response};

pub(super) struct ApiError {
    status: u16,
    code: Option<&'static str>,
    param: Option<&'static str>,
    message: String,
    headers: Vec<(&'static str, String)>,
}

impl ApiError {
    pub(super) fn new(status: u16, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            param: None,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    pub(super) fn unauthorized(code: Option<&'static str>, message: &str) -> Self {
        let challenge = "Basic realm=\"OpenAI API\"";
        Self::new(401, code, message).header("www-authenticate", challenge)
    }

    pub(super) fn missing(param: &'static str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self::new(400, Some("missing_required_parameter"), message).param(param)
    }

    pub(super) fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// `value` is printable ASCII.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn into_response(self) -> Response<Script> {
        let kind = match self.status {
            429 => "requests",
            500 => "server_error",
            _ => "invalid_request_error",
        };
        let error = json!({
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        });
        let mut response = json_response(self.status, &json!({ "error": error }));
        for (name, value) in self.headers {
            let value = HeaderValue::try_from(value).expect("printable");
            response.headers_mut().insert(name, value);
        }
        response
    }
}

pub(super) const INVALID_API_KEY: &str = "Incorrect API key provided: ********. You can find your \
    API key at https://platform.openai.com/account/api-keys.";

pub(super) const NO_CREDENTIALS: &str = "You didn't provide an API key. You need to provide your \
    API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or \
    as the password field (with blank username) if you're accessing the API from your browser and \
    are prompted for a username and password. You can obtain an API key from \
    https://platform.openai.com/account/api-keys.";

pub(super) const SERVER_ERROR: &str =
    "The server had an error while processing your request. Sorry about that!";

pub(super) const NOT_JSON: &str = "We could not parse the JSON body of your request. (HINT: This \
    likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON \
    payload, but what was sent was not valid JSON. If you have trouble figuring out how to fix \
    this, please contact us through our help center at help.openai.com.)";
