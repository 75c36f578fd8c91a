use http_body_util::Full;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::header::is_event_stream;

fn response(content_type: &str) -> Response<Full<Bytes>> {
    let response = Response::builder().header("content-type", content_type);
    response.body(Full::default()).unwrap()
}

/// What reads along in a response.
fn tap_of(response: &Response<Full<Bytes>>, is_post: bool) -> Tap {
    let is_stream = is_event_stream(&response.headers()["content-type"]);
    Tap::of(response, is_stream, is_post)
}

fn stream() -> Tap {
    tap_of(&response("text/event-stream; charset=utf-8"), true)
}

/// Of a body whose length isn't known.
fn whole() -> Tap {
    Tap::Whole(Box::new(Whole::new(None)))
}

/// What a tap has found.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    usage: Option<String>,
    model: Option<String>,
    id: Option<String>,
    is_done: bool,
    has_error: bool,
    /// Behind how many bytes the first token was found.
    token: Option<usize>,
}

fn feed(mut tap: Tap, chunks: &[&[u8]]) -> (Told, Tap) {
    let (mut at, mut token) = (0, None);
    for chunk in chunks {
        at += chunk.len();
        if tap.feed(&Bytes::copy_from_slice(chunk)) {
            assert_eq!(token, None, "two first tokens");
            token = Some(at);
        }
    }
    tap.end();
    let (is_done, has_error) = (tap.is_done(), tap.has_error());
    let Seen { usage, names } = tap.take();
    let usage = usage.ok().map(|usage| usage.as_bytes().to_vec());
    let told = Told {
        usage: usage.map(|usage| String::from_utf8(usage).unwrap()),
        model: names.model.map(Into::into),
        id: names.id.map(Into::into),
        is_done,
        has_error,
        token,
    };
    (told, tap)
}

/// What is found in a text, which is the same wherever it is cut.
fn told(tap: fn() -> Tap, text: &str) -> Told {
    let text = text.as_bytes();
    let (whole, _) = feed(tap(), &[text]);
    let (bytes, _) = feed(tap(), &text.chunks(1).collect::<Vec<_>>());
    let token = bytes.token;
    for cut in 0..=text.len() {
        let (first, rest) = text.split_at(cut);
        let (mut cut_once, _) = feed(tap(), &[first, rest]);
        if let (Some(token), Some(found)) = (token, &mut cut_once.token) {
            // The piece with the token's first character.
            let piece = if token <= cut { cut } else { text.len() };
            assert_eq!(*found, piece, "cut at {cut}");
            *found = text.len();
        }
        assert_eq!(cut_once, whole, "cut at {cut}");
    }
    for length in [2, 3, 7, 64] {
        let (mut pieces, _) = feed(tap(), &text.chunks(length).collect::<Vec<_>>());
        pieces.token = whole.token;
        assert_eq!(pieces, whole, "in pieces of {length}");
    }
    Told { token, ..whole }
}

fn counts(usage: &Usage) -> [Option<u64>; 6] {
    [
        usage.input_tokens(),
        usage.cache_read_tokens(),
        usage.output_tokens(),
        usage.reasoning_tokens(),
        usage.total_tokens(),
        usage.cache_write_tokens(),
    ]
}

fn usage_of(text: &str) -> Option<Usage> {
    let mut tap = whole();
    tap.feed(&Bytes::copy_from_slice(text.as_bytes()));
    tap.take().usage.ok()
}

/// Answers that aren't streams, by provider, and what they tell: input, cached, output, reasoning,
/// total, written to the cache.
const ANSWERS: [(&str, &str, [Option<u64>; 6]); 14] = [
    (
        "openai chat",
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"\"usage\":{\"total_tokens\":9}","refusal":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_1"}"#,
        [Some(19), Some(4), Some(10), Some(3), Some(29), None],
    ),
    (
        "openai responses",
        "{\n  \"id\": \"resp_1\",\n  \"model\": \"gpt-4.1\",\n  \"output\": [],\n  \"usage\": {\n    \"input_tokens\": 36,\n    \"input_tokens_details\": {\n      \"cached_tokens\": 1\n    },\n    \"output_tokens\": 87,\n    \"output_tokens_details\": {\n      \"reasoning_tokens\": 2\n    },\n    \"total_tokens\": 123\n  },\n  \"user\": null\n}",
        [Some(36), Some(1), Some(87), Some(2), Some(123), None],
    ),
    (
        "openai embeddings",
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.0023064255,-0.009327292]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
        [Some(8), None, None, None, Some(8), None],
    ),
    (
        "openai transcription",
        r#"{"text":"Hello","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,"total_tokens":59}}"#,
        [Some(14), None, Some(45), None, Some(59), None],
    ),
    (
        "openai transcription by the second",
        r#"{"text":"Hello","usage":{"type":"duration","seconds":9.5}}"#,
        [None; 6],
    ),
    (
        "azure",
        r#"{"choices":[{"content_filter_results":{"hate":{"filtered":false}},"message":{"content":"Hi","role":"assistant"}}],"id":"chatcmpl-1","model":"gpt-4o","prompt_filter_results":[{"prompt_index":0}],"usage":{"completion_tokens":33,"prompt_tokens":17,"total_tokens":50}}"#,
        [Some(17), None, Some(33), None, Some(50), None],
    ),
    (
        "groq",
        r#"{"id":"chatcmpl-1","model":"llama-3.3-70b-versatile","choices":[],"usage":{"queue_time":0.037493756,"prompt_tokens":18,"prompt_time":0.000680594,"completion_tokens":556,"completion_time":0.463333333,"total_tokens":574,"total_time":0.464013927},"system_fingerprint":"fp_1","x_groq":{"id":"req_1"}}"#,
        [Some(18), None, Some(556), None, Some(574), None],
    ),
    (
        "mistral",
        r#"{"id":"1","model":"mistral-small-latest","usage":{"prompt_tokens":16,"completion_tokens":34,"total_tokens":50,"prompt_audio_seconds":null}}"#,
        [Some(16), None, Some(34), None, Some(50), None],
    ),
    (
        "deepseek",
        r#"{"id":"1","model":"deepseek-chat","usage":{"prompt_tokens":16,"completion_tokens":10,"total_tokens":26,"prompt_tokens_details":{"cached_tokens":0},"prompt_cache_hit_tokens":12,"prompt_cache_miss_tokens":4}}"#,
        [Some(16), Some(0), Some(10), None, Some(26), None],
    ),
    (
        "vllm",
        r#"{"id":"chatcmpl-1","model":"m","choices":[],"usage":{"prompt_tokens":11,"total_tokens":25,"completion_tokens":14,"prompt_tokens_details":null},"prompt_logprobs":null}"#,
        [Some(11), None, Some(14), None, Some(25), None],
    ),
    (
        "llama.cpp",
        r#"{"choices":[],"model":"m","usage":{"completion_tokens":5,"prompt_tokens":7,"total_tokens":12},"id":"chatcmpl-1","timings":{"prompt_n":7}}"#,
        [Some(7), None, Some(5), None, Some(12), None],
    ),
    (
        "openrouter",
        r#"{"id":"gen-1","provider":"X","model":"a/b","usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"cost":0.00014,"is_byok":false,"prompt_tokens_details":{"cached_tokens":6,"cache_write_tokens":3},"cost_details":{"upstream_inference_cost":null},"completion_tokens_details":{"reasoning_tokens":0}}}"#,
        [Some(10), Some(6), Some(2), Some(0), Some(12), Some(3)],
    ),
    (
        "gemini",
        r#"{"choices":[{"finish_reason":"stop","index":0,"message":{"content":"Hi","role":"assistant"}}],"created":1,"id":"x","model":"gemini-2.5-flash","object":"chat.completion","usage":{"completion_tokens":9,"prompt_tokens":2,"total_tokens":40}}"#,
        [Some(2), None, Some(9), None, Some(40), None],
    ),
    (
        "anthropic",
        r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":2095,"cache_creation_input_tokens":2051,"cache_read_input_tokens":20,"cache_creation":{"ephemeral_5m_input_tokens":2051},"output_tokens":503,"service_tier":"standard"}}"#,
        [Some(2095), Some(20), Some(503), None, None, Some(2051)],
    ),
];

#[test]
fn usage_is_found_in_the_answers_of_all_providers() {
    for (provider, text, expected) in ANSWERS {
        let usage = usage_of(text).expect(provider);
        assert_eq!(counts(&usage), expected, "{provider}");
        let document: Value = serde_json::from_str(text).unwrap();
        let told = told(whole, text);
        assert_eq!(told.usage.as_deref(), str::from_utf8(usage.as_bytes()).ok());
        let object: Value = serde_json::from_str(&told.usage.unwrap()).unwrap();
        assert_eq!(object, document["usage"], "{provider}");
        assert_eq!(told.model.as_deref(), document["model"].as_str());
        let id = document["id"]
            .as_str()
            .or(document["x_groq"]["id"].as_str());
        assert_eq!(told.id.as_deref(), id, "{provider}");
    }
}

type Events = (
    &'static str,
    &'static [&'static str],
    Option<usize>,
    Option<usize>,
);

/// Streams, by provider: the lines of data, and the events in which the first token and the usage
/// stand.
const STREAMS: [Events; 11] = [
    (
        "openai chat",
        &[
            r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"Hi \"usage\":{\"total_tokens\":1}"},"finish_reason":null}],"usage":null}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#,
            r#"{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#,
            "[DONE]",
        ],
        Some(1),
        Some(3),
    ),
    (
        "openai tool calls",
        &[
            r#"{"id":"1","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[]}}]}"#,
            r#"{"id":"1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
            r#"{"id":"1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"usage\":"}}]}}]}"#,
            "[DONE]",
        ],
        Some(1),
        None,
    ),
    (
        "openai responses",
        &[
            r#"{"type":"response.created","response":{"id":"resp_1","model":"gpt-4.1","output":[],"text":{"format":{"type":"text"}},"usage":null}}"#,
            r#"{"type":"response.output_item.added","item":{"id":"msg_1","content":[],"role":"assistant"}}"#,
            r#"{"type":"response.content_part.added","part":{"type":"output_text","annotations":[],"text":""}}"#,
            r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"Hi"}"#,
            r#"{"type":"response.completed","response":{"id":"resp_1","usage":{"input_tokens":37,"output_tokens":11,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":48}}}"#,
        ],
        Some(3),
        Some(4),
    ),
    (
        "azure",
        &[
            r#"{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false}}}]}"#,
            r#"{"choices":[{"delta":{"content":"","refusal":null,"role":"assistant"}}],"id":"chatcmpl-1","model":"gpt-4o"}"#,
            r#"{"choices":[{"delta":{"content":"\n"}}]}"#,
            "[DONE]",
        ],
        Some(2),
        None,
    ),
    (
        "groq",
        &[
            r#"{"id":"1","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"x_groq":{"id":"req_1"}}"#,
            r#"{"id":"1","choices":[{"index":0,"delta":{"reasoning":"Hm"}}]}"#,
            r#"{"id":"1","choices":[{"index":0,"delta":{}}],"x_groq":{"id":"req_1","usage":{"queue_time":0.1,"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}}"#,
            "[DONE]",
        ],
        Some(1),
        Some(2),
    ),
    (
        "deepseek",
        &[
            r#"{"id":"1","model":"deepseek-reasoner","choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":""}}]}"#,
            r#"{"id":"1","choices":[{"index":0,"delta":{"content":null,"reasoning_content":"Hm"}}]}"#,
            r#"{"id":"1","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"prompt_cache_hit_tokens":1}}"#,
            "[DONE]",
        ],
        Some(1),
        Some(2),
    ),
    (
        "vllm with running totals",
        &[
            r#"{"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0}}"#,
            r#"{"id": "1", "choices": [{"index": 0, "delta": {"content" : "Hi"}}], "usage": {"prompt_tokens": 3, "total_tokens": 4, "completion_tokens": 1}}"#,
            r#"{"id": "1", "choices": [], "usage" : {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}}"#,
            "[DONE]",
        ],
        Some(1),
        Some(2),
    ),
    (
        "text completions",
        &[
            r#"{"id":"cmpl-1","object":"text_completion","choices":[{"text":"","index":0}],"model":"m"}"#,
            r#"{"id":"cmpl-1","choices":[{"text":"é","index":0}],"model":"m"}"#,
            "[DONE]",
        ],
        Some(1),
        None,
    ),
    (
        "audio",
        &[
            r#"{"id":"1","choices":[{"delta":{"role":"assistant","audio":{"id":"audio_1"}}}],"model":"m"}"#,
            r#"{"id":"1","choices":[{"delta":{"audio":{"transcript":"","data":"UklGRg=="}}}]}"#,
            "[DONE]",
        ],
        Some(1),
        None,
    ),
    (
        "transcription",
        &[
            r#"{"type":"transcript.text.delta","delta":"Hel"}"#,
            r#"{"type":"transcript.text.done","text":"Hello","usage":{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59}}"#,
        ],
        Some(0),
        Some(1),
    ),
    (
        "anthropic",
        &[
            r#"{"type":"message_start","message":{"id":"msg_1","model":"claude","content":[],"usage":{"input_tokens":25,"output_tokens":1}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#,
            r#"{"type":"message_stop"}"#,
        ],
        Some(3),
        Some(4),
    ),
];

#[test]
fn streams_of_all_providers_are_read() {
    for (provider, events, token, usage) in STREAMS {
        for (end, space) in [("\n", " "), ("\r\n", "")] {
            let mut text = format!(": \"usage\":{{\"total_tokens\":0}} \"text\":\"no\"{end}{end}");
            let mut expected = Told::default();
            for (index, event) in events.iter().enumerate() {
                let name = "event: {\"usage\":{\"total_tokens\":0},\"content\":\"no\"}";
                text.push_str(&format!("{name}{end}id: \"delta\":\"no\"{end}data:{space}"));
                let start = text.len();
                text.push_str(event);
                text.push_str(&format!("{end}{end}"));
                let Ok(json) = serde_json::from_str::<Value>(event) else {
                    expected.is_done = true;
                    continue;
                };
                if token == Some(index) {
                    expected.token = Some(start);
                }
                if usage == Some(index) {
                    let places = [
                        &json["usage"],
                        &json["response"]["usage"],
                        &json["x_groq"]["usage"],
                    ];
                    let object = places.into_iter().find(|place| place.is_object()).unwrap();
                    expected.usage = Some(object.to_string());
                }
            }
            let found = told(stream, &text);
            let as_json = |text: &Option<String>| {
                let text = text.as_ref()?;
                Some(serde_json::from_str::<Value>(text).unwrap())
            };
            let context = format!("{provider} {end:?} {space:?}");
            assert_eq!(as_json(&found.usage), as_json(&expected.usage), "{context}");
            assert_eq!(found.is_done, expected.is_done, "{context}");
            assert!(!found.has_error, "{context}");
            // Within the event, and right behind the string's first character.
            let event = expected
                .token
                .zip(token)
                .map(|(start, index)| start..start + events[index].len());
            match (found.token, event) {
                (Some(at), Some(event)) => assert!(event.contains(&at), "{context}: {at}"),
                (found, expected) => assert_eq!(found, expected.map(|e| e.start), "{context}"),
            }
        }
    }
}

#[test]
fn the_first_token_is_in_the_chunk_with_its_first_character() {
    for (text, token) in [
        (r#"data: {"content":"Hi"}"#, Some(r#"data: {"content":"H"#)),
        (
            r#"data: {"content" : "Hi"}"#,
            Some(r#"data: {"content" : "H"#),
        ),
        (r#"data: {"content":"\n"}"#, Some(r#"data: {"content":"\"#)),
        (
            r#"data: {"tool_calls": [ {"#,
            Some(r#"data: {"tool_calls": [ {"#),
        ),
        (r#"data: {"tool_calls":[ ],"text":""}"#, None),
        (
            r#"data: {"tool_calls":"x","delta":{},"data":[1],"text":null}"#,
            None,
        ),
        (
            r#"data: {"contents":"x","con":"x","x":"content","y":":\"text\":\"z"}"#,
            None,
        ),
        (
            r#"data: {"x":"\\","text":"z"}"#,
            Some(r#"data: {"x":"\\","text":"z"#),
        ),
        ("data: {\"text\":\ndata: \"x\"}", None),
        ("dat: {\"text\":\"x\"}", None),
        ("data : {\"text\":\"x\"}", None),
        (": {\"text\":\"x\"}", None),
    ] {
        for end in ["", "\n\n"] {
            let found = told(stream, &format!("{text}{end}"));
            assert_eq!(found.token, token.map(str::len), "{text:?}");
        }
    }
}

#[test]
fn the_end_and_errors_of_a_stream_are_found() {
    for (text, is_done, has_error) in [
        ("data: {}\n\ndata: [DONE]\n\n", true, false),
        ("data: {}\r\n\r\ndata:[DONE]\r\n\r\n", true, false),
        ("data: [DONE]", true, false),
        ("data: {\"text\":\"data: [DONE]\"}\n\n", false, false),
        (": data: [DONE]\n\n", false, false),
        ("data: [DONE]x\n\n", false, false),
        ("data: [DONE]\r\r\n", false, false),
        (
            "data: [DONE] and a line that is far too long to be that\n",
            false,
            false,
        ),
        (
            "data: {\"error\":{\"message\":\"overloaded\"}}\n\n",
            false,
            true,
        ),
        ("data: { \"error\" : \"overloaded\" }\r\n\r\n", false, true),
        ("data: {\"error\":null,\"x\":1}\n\n", false, false),
        ("data: {\"error\": null}\n\n", false, false),
        ("data: {\"errors\":1}\n\n", false, false),
        ("data: {\"x\":1,\"error\":{}}\n\n", false, false),
        (
            "event: error\ndata: {\"type\":\"error\",\"code\":1}\n\n",
            false,
            true,
        ),
        (
            "data: {\"type\":\"response.failed\",\"response\":{}}\n\n",
            false,
            true,
        ),
        ("data: {\"type\": \"response.failed\"}", false, true),
        ("data: {\"type\":\"response.failed_not\"}\n\n", false, false),
        ("data: {\"type\":\"errors\"}\n\n", false, false),
        ("event: {\"error\":{}}\n\n", false, false),
        ("data: {\"error\":{}}\n\ndata: [DONE]\n\n", true, true),
    ] {
        let found = told(stream, text);
        assert_eq!(
            (found.is_done, found.has_error),
            (is_done, has_error),
            "{text:?}"
        );
    }
    // A client that has read no more of it than this hasn't read a line.
    let mut tap = stream();
    tap.feed(&Bytes::from("data: [DONE]"));
    assert!(!tap.is_done());
}

#[test]
fn decoys_are_no_usage() {
    let object = r#"{"total_tokens":1}"#;
    for (text, expected) in [
        (format!(r#"{{"usage":{object}}}"#), Some(object)),
        (
            format!(r#"{{"usage" :{} {object}}}"#, "\r\n\t "),
            Some(object),
        ),
        (
            format!(r#"{{"x":[{{"y":{{"usage":{object}}}}}]}}"#),
            Some(object),
        ),
        (
            format!(r#"{{"x":"\"usage\":{}"}}"#, object.replace('"', "\\\"")),
            None,
        ),
        (
            format!(r#"{{"x":"\\\"usage\":{}"}}"#, object.replace('"', "\\\"")),
            None,
        ),
        (format!(r#"{{"x":"\\","usage":{object}}}"#), Some(object)),
        (format!(r#"{{"x":"usage","y":{object}}}"#), None),
        (format!(r#"["usage",{object}]"#), None),
        (
            format!(r#"{{"usages":{object},"Usage":{object},"usage2":1,"my_usage":{object}}}"#),
            None,
        ),
        (r#"{"usage":{"total_tokens":"1"}}"#.into(), None),
        (r#"{"usage":{"total_tokens":1.0}}"#.into(), None),
        (r#"{"usage":{"total_tokens":-1}}"#.into(), None),
        (r#"{"usage":{"total_tokens":1e3}}"#.into(), None),
        (
            r#"{"usage":{"total_tokens":9223372036854775808}}"#.into(),
            None,
        ),
        (
            r#"{"usage":{"cached_tokens":1,"x":{"total_tokens":1}}}"#.into(),
            None,
        ),
        (r#"{"usage":{"seconds":-1}}"#.into(), None),
        (r#"{"usage":{"seconds":"1"}}"#.into(), None),
        (
            r#"{"usage":{"seconds":0.5}}"#.into(),
            Some(r#"{"seconds":0.5}"#),
        ),
        (r#"{"usage":{}}"#.into(), None),
        (r#"{"usage":[{"total_tokens":1}]}"#.into(), None),
        // The one before stays.
        (
            format!(
                r#"[{{"usage":{object}}},{{"usage":null}},{{"usage":{{"x":2}}}},{{"usage":"total_tokens"}}]"#
            ),
            Some(object),
        ),
        // The last one counts, and of nested ones the outer one, which ends last.
        (
            format!(r#"[{{"usage":{{"total_tokens":2}}}},{{"usage":{object}}}]"#),
            Some(object),
        ),
        (
            format!(r#"{{"usage":{{"x":{{"usage":{object}}}}}}}"#),
            Some(object),
        ),
        (
            format!(r#"{{"usage":{{"output_tokens":2,"usage":{object}}}}}"#),
            Some(r#"{"output_tokens":2,"usage":{"total_tokens":1}}"#),
        ),
        // Cut off.
        (r#"{"usage":{"total_tokens":1"#.into(), None),
        (
            format!(r#"{{"usage":{{"total_tokens":2,"usage":{object},"#),
            Some(object),
        ),
        (String::new(), None),
    ] {
        let found = told(whole, &text);
        assert_eq!(found.usage.as_deref(), expected, "{text}");
        if !text.contains('\n') {
            let found = told(stream, &format!("data: {text}\n\n"));
            assert_eq!(found.usage.as_deref(), expected, "{text}");
        }
    }
    // Spread over several lines.
    let spread = "data: {\"usage\":{\"total_tokens\":\ndata: 1}}\n\n";
    assert_eq!(told(stream, spread).usage, None);
}

#[test]
fn the_first_name_of_a_field_counts() {
    let text = r#"{"usage":{"output_tokens":4,"completion_tokens":3,"input_tokens":2,"prompt_tokens":1,
        "total_tokens":0,"cached_tokens":9,"cache_read_input_tokens":8,"prompt_cache_hit_tokens":7,
        "input_tokens_details":{"cached_tokens":6,"audio_tokens":11,"image_tokens":12,"text_tokens":13},
        "prompt_tokens_details":{"cached_tokens":5},
        "output_tokens_details":{"reasoning_tokens":16,"audio_tokens":17,"image_tokens":18,"text_tokens":19},
        "completion_tokens_details":{"reasoning_tokens":15},
        "cache_creation_input_tokens":21,"prompt_audio_seconds":2,"seconds":1.5,"cost":0.25,
        "prompt_tokens":"no number"}}"#;
    let usage = usage_of(text).unwrap();
    assert_eq!(
        counts(&usage),
        [Some(1), Some(5), Some(3), Some(15), Some(0), Some(21)]
    );
    let modalities = [
        usage.input_audio_tokens(),
        usage.input_image_tokens(),
        usage.input_text_tokens(),
        usage.output_audio_tokens(),
        usage.output_image_tokens(),
        usage.output_text_tokens(),
    ];
    assert_eq!(modalities, [11, 12, 13, 17, 18, 19].map(Some));
    assert_eq!(usage.audio_seconds(), Some(1.5));
    assert_eq!(usage.cost(), Some(0.25));

    let usage =
        usage_of(r#"{"usage":{"prompt_tokens":null,"input_tokens":7,"cost":"1"}}"#).unwrap();
    assert_eq!(counts(&usage), [Some(7), None, None, None, None, None]);
    assert_eq!((usage.audio_seconds(), usage.cost()), (None, None));
    assert!(!format!("{usage:?}").contains("prompt"));
}

#[test]
fn the_largest_usage_has_4096_bytes() {
    let usage = |length: usize, last: &str| {
        let pad = length - last.len() - r#"{"x":"",}"#.len();
        format!(r#"{{"x":"{}",{last}}}"#, "a".repeat(pad))
    };
    for (object, is_kept, is_usage) in [
        (usage(4096, r#""total_tokens":1"#), true, true),
        (usage(4097, r#""total_tokens":1"#), false, true),
        (usage(9000, r#""total_tokens":1"#), false, true),
        (usage(9000, r#""y":{"total_tokens":1}"#), false, false),
        (
            format!(r#"{{"total_tokens":1,{}"#, &usage(9000, r#""y":1"#)[1..]),
            false,
            true,
        ),
        (
            format!(r#"{{"y":{},"z":1}}"#, usage(9000, r#""total_tokens":1"#)),
            false,
            false,
        ),
        (
            format!(r#"{{{}"total_tokens":1}}"#, r#""x":1,"#.repeat(2000)),
            false,
            true,
        ),
    ] {
        let before = r#"{"usage":{"total_tokens":5}}"#;
        let text = format!(r#"[{before},{{"usage":{object}}}]"#);
        let text = text.as_bytes();
        let cuts = [text.len(), 1, 7, 1000, 4096];
        for cut in cuts {
            let (told, _) = feed(whole(), &text.chunks(cut).collect::<Vec<_>>());
            let mut tap = whole();
            for chunk in text.chunks(cut) {
                tap.feed(&Bytes::copy_from_slice(chunk));
            }
            let missing = tap.take().usage.err();
            let expected = match (is_kept, is_usage) {
                (true, _) => (Some(object.as_str()), None),
                (false, true) => (None, Some(Missing::TooLarge)),
                (false, false) => (Some(r#"{"total_tokens":5}"#), None),
            };
            assert_eq!(
                (told.usage.as_deref(), missing),
                expected,
                "{cut} {}",
                object.len()
            );
        }
    }
}

#[test]
fn a_body_that_is_no_stream_is_searched_at_its_beginning_and_at_its_end() {
    let usage = r#""usage":{"total_tokens":1}"#;
    let (edge, size) = (65_536, 300_000);
    for (at, is_found) in [
        (0, true),
        (edge - usage.len(), true),
        (edge - usage.len() + 1, false),
        (150_000, false),
        (size - edge - 1, false),
        (size - edge, true),
        (size - usage.len(), true),
    ] {
        let text = format!(
            "{}{usage}{}",
            " ".repeat(at),
            " ".repeat(size - at - usage.len())
        );
        for length in [None, Some(text.len() as u64)] {
            for cut in [text.len(), 4096, 65_536, 10_007] {
                let tap = Tap::Whole(Box::new(Whole::new(length)));
                let chunks = text.as_bytes().chunks(cut).collect::<Vec<_>>();
                let (told, _) = feed(tap, &chunks);
                assert_eq!(told.usage.is_some(), is_found, "{at} {length:?} {cut}");
            }
        }
    }
    // In the first 64 KiB and in the last.
    let text = format!("{usage}{}{}", " ".repeat(size), usage.replace('1', "2"));
    let (told, _) = feed(whole(), &[text.as_bytes()]);
    assert_eq!(told.usage.as_deref(), Some(r#"{"total_tokens":2}"#));
}

#[test]
fn names_are_found_in_the_first_4096_bytes() {
    for (pad, model) in [
        (0, Some("gpt-4o")),
        (4000, Some("gpt-4o")),
        (4090, None),
        (9000, None),
    ] {
        let text = format!(r#"{{"x":"{}","model":"gpt-4o"}}"#, "a".repeat(pad));
        for cut in [1, 100, text.len()] {
            let (told, _) = feed(whole(), &text.as_bytes().chunks(cut).collect::<Vec<_>>());
            assert_eq!(told.model.as_deref(), model, "{pad} {cut}");
        }
    }
    let text = r#"{"model":null,"x":{"model":"a\"\u00e9"},"model":"b","id":7,"id":"c"}"#;
    let found = told(whole, text);
    assert_eq!(found.model.as_deref(), Some("a\"é"));
    assert_eq!(found.id.as_deref(), Some("c"));
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(1000));
    assert_eq!(told(whole, &long).model.unwrap().len(), 256);
}

#[test]
fn only_answers_to_a_post_are_read() {
    let with = |content_type: &str, encoding: Option<&str>, status: u16| {
        let mut response = response(content_type);
        *response.status_mut() = status.try_into().unwrap();
        if let Some(encoding) = encoding {
            let encoding = encoding.parse().unwrap();
            response.headers_mut().insert("content-encoding", encoding);
        }
        response
    };
    let missing = |response: &Response<Full<Bytes>>, is_post| match tap_of(response, is_post) {
        Tap::None(missing) => Some(missing),
        _ => None,
    };
    for (response, expected) in [
        (with("application/json", None, 200), None),
        (
            with("Application/JSON; charset=utf-8", Some("identity"), 201),
            None,
        ),
        (with("text/event-stream", None, 200), None),
        (
            with("text/event-stream", Some("gzip"), 200),
            Some(Missing::Encoded),
        ),
        (
            with("text/event-streams", None, 200),
            Some(Missing::NotApplicable),
        ),
        (with("text/plain", None, 200), Some(Missing::NotApplicable)),
        (
            with("application/json", None, 400),
            Some(Missing::NotApplicable),
        ),
    ] {
        assert_eq!(missing(&response, true), expected, "{response:?}");
        assert!(missing(&response, false).is_some());
    }
}

#[test]
fn many_nested_objects_cost_no_more_than_a_few_passes() {
    // Quadratic time would be minutes.
    let text = r#"{"usage":"#.repeat(200_000);
    let (told, _) = feed(whole(), &[text.as_bytes()]);
    assert_eq!(told.usage, None);
    let text = format!("{text}{}", "}".repeat(200_000));
    let (told, _) = feed(whole(), &[text.as_bytes()]);
    assert_eq!(told.usage, None);
}

#[test]
fn what_reads_along_is_small() {
    assert!(size_of::<Tap>() <= 16);
    assert!(size_of::<Stream>() + size_of::<words::Words>() <= 256);
    assert!(size_of::<Whole>() <= 256);
}

/// JSON with many keys and strings that look like usage.
fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("usage"),
        Just("\"usage\":{\"total_tokens\":1}"),
        Just("\\"),
        Just("a\\\"usage\":{"),
        Just(""),
        Just("{}[]\n\u{e9}"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        (0_u64..3).prop_map(Value::from),
        Just(Value::from(1.5)),
        Just(Value::from(-1)),
        text.clone().prop_map(Value::from),
    ];
    let key = prop_oneof![
        4 => Just("usage"),
        2 => Just("total_tokens"),
        1 => Just("prompt_tokens"),
        1 => Just("seconds"),
        1 => text,
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        let members = prop::collection::vec((key.clone(), inner.clone()), 0..4);
        let members = members.prop_map(|members| {
            let members = members
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value));
            Value::Object(members.collect())
        });
        prop_oneof![
            3 => members,
            1 => prop::collection::vec(inner, 0..4).prop_map(Value::from),
        ]
    })
}

/// The last usage object in a document, by the order of their ends.
fn last_usage(document: &Value) -> Option<&Value> {
    let members: Vec<(&str, &Value)> = match document {
        Value::Object(members) => members.iter().map(|(key, value)| (&**key, value)).collect(),
        Value::Array(items) => items.iter().map(|item| ("", item)).collect(),
        _ => return None,
    };
    members.into_iter().rev().find_map(|(key, value)| {
        let counts = [
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "input_tokens",
            "output_tokens",
        ];
        let is_usage = key == "usage"
            && (counts.iter().any(|count| value[*count].is_u64())
                || value["seconds"]
                    .as_f64()
                    .is_some_and(|seconds| seconds >= 0.0));
        if is_usage {
            return Some(value);
        }
        last_usage(value)
    })
}

proptest! {
    #[test]
    fn the_same_is_found_as_by_parsing(document in json(), pretty: bool, cuts in prop::collection::vec(1_usize..40, 1..20)) {
        let text = if pretty {
            serde_json::to_string_pretty(&document).unwrap()
        } else {
            document.to_string()
        };
        let mut chunks = Vec::new();
        let mut rest = text.as_bytes();
        for cut in cuts.iter().cycle() {
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let (cut, _) = feed(whole(), &chunks);
        let (uncut, _) = feed(whole(), &[text.as_bytes()]);
        prop_assert_eq!(&cut, &uncut);
        let found = uncut.usage.map(|usage| serde_json::from_str::<Value>(&usage).unwrap());
        prop_assert_eq!(found.as_ref(), last_usage(&document));
    }

    #[test]
    fn nothing_panics(chunks in prop::collection::vec(prop::collection::vec(prop::sample::select(&b"\"usage:{}[],\\ \ndta1ocntel"[..]), 0..60), 0..6)) {
        for tap in [whole, stream] {
            let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
            feed(tap(), &chunks);
        }
    }
}

#[cfg(feature = "decompress")]
mod compressed {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    /// Compressed by the reference implementations, as nothing here encodes in these.
    const BROTLI: &[u8] = &[
        0x8b, 0x0d, 0x80, 0x7b, 0x22, 0x75, 0x73, 0x61, 0x67, 0x65, 0x22, 0x3a, 0x7b, 0x22, 0x74,
        0x6f, 0x74, 0x61, 0x6c, 0x5f, 0x74, 0x6f, 0x6b, 0x65, 0x6e, 0x73, 0x22, 0x3a, 0x37, 0x7d,
        0x7d, 0x03,
    ];
    const ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x1c, 0xe1, 0x00, 0x00, 0x7b, 0x22, 0x75, 0x73, 0x61, 0x67,
        0x65, 0x22, 0x3a, 0x7b, 0x22, 0x74, 0x6f, 0x74, 0x61, 0x6c, 0x5f, 0x74, 0x6f, 0x6b, 0x65,
        0x6e, 0x73, 0x22, 0x3a, 0x37, 0x7d, 0x7d,
    ];
    const TEXT: &str = r#"{"usage":{"total_tokens":7}}"#;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn total(codings: &[&str], body: &[u8], is_whole: bool) -> Result<Option<u64>, Missing> {
        let mut response = response("application/json");
        for coding in codings {
            let coding = coding.parse().unwrap();
            response.headers_mut().append("content-encoding", coding);
        }
        let mut tap = tap_of(&response, true);
        for chunk in body.chunks(1000) {
            tap.feed(&Bytes::copy_from_slice(chunk));
        }
        if is_whole {
            tap.end();
        }
        tap.take().usage.map(|usage| usage.total_tokens())
    }

    #[test]
    fn usage_is_found_in_what_is_decoded() {
        let text = TEXT.as_bytes();
        let twice = [gzip(&text[..9]), gzip(&text[9..])].concat();
        for (coding, body) in [
            ("gzip", gzip(text)),
            ("X-GZip", gzip(text)),
            ("gzip", twice),
            ("deflate", zlib(text)),
            ("deflate", deflate(text)),
            ("br", BROTLI.to_vec()),
            ("zstd", ZSTD.to_vec()),
        ] {
            assert_eq!(total(&[coding], &body, true), Ok(Some(7)), "{coding}");
            let cut = &body[..body.len() - 4];
            for (body, is_whole) in [(&body[..], false), (cut, true), (b"nonsense", true)] {
                let result = total(&[coding], body, is_whole);
                assert_eq!(result, Err(Missing::Encoded), "{coding}");
            }
        }
        assert_eq!(total(&["gzip"], &gzip(b"{}"), true), Err(Missing::NotFound));
    }

    #[test]
    fn other_codings_are_left_alone() {
        let body = gzip(TEXT.as_bytes());
        for codings in [
            &["gzip, gzip"][..],
            &["gzip", "gzip"],
            &["compress"],
            &["identity, gzip"],
        ] {
            assert_eq!(
                total(codings, &body, true),
                Err(Missing::Encoded),
                "{codings:?}"
            );
        }
    }

    #[test]
    fn decoding_has_bounds() {
        let padded = |length: usize| {
            let spaces = " ".repeat(length - TEXT.len());
            gzip(format!("{spaces}{TEXT}").as_bytes())
        };
        let most = 4 * 1024 * 1024;
        assert_eq!(total(&["gzip"], &padded(most), true), Ok(Some(7)));
        assert_eq!(
            total(&["gzip"], &padded(most + 1), true),
            Err(Missing::Encoded)
        );
        let bomb = gzip(&vec![0; 1 << 24]);
        assert!(bomb.len() < 32 * 1024);
        assert_eq!(total(&["gzip"], &bomb, true), Err(Missing::Encoded));

        // What can't be compressed: more than 256 KiB as it is sent.
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(300_000)
        .collect();
        let large = gzip(&[&noise[..], TEXT.as_bytes()].concat());
        assert!(large.len() > 256 * 1024);
        assert_eq!(total(&["gzip"], &large, true), Err(Missing::Encoded));
    }
}
