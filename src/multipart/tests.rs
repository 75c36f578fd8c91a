//! Every rule by example first; then forms made at random, with `multer` as the judge.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use super::{Found, Invalid, Scanner, boundary};

const BOUNDARY: &[u8] = b"b";

fn scan<'a>(boundary: &[u8], chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Found, Invalid> {
    let mut scanner = Scanner::new(boundary);
    for chunk in chunks {
        scanner.feed(chunk)?;
    }
    scanner.finish()
}

/// The models of a document. Checks that they are the same wherever it is cut in two, and cut into
/// bytes.
fn models_cut<'a>(boundary: &[u8], document: &'a [u8]) -> Result<Vec<&'a [u8]>, String> {
    let whole = scan(boundary, [document]);
    let text = document.escape_ascii();
    for at in 0..=document.len() {
        let (first, second) = document.split_at(at);
        let cut = scan(boundary, [first, second]);
        assert_eq!(cut, whole, "{text} cut at {at}");
    }
    let bytes = scan(boundary, document.chunks(1));
    assert_eq!(bytes, whole, "{text} cut into bytes");
    contents(document, whole)
}

fn contents(document: &[u8], found: Result<Found, Invalid>) -> Result<Vec<&[u8]>, String> {
    let found = found.map_err(|invalid| invalid.to_string())?;
    Ok(found
        .models
        .into_iter()
        .map(|span| &document[span])
        .collect())
}

/// A part named `model` with these headers, in a document of its own.
fn part(headers: &str) -> Vec<u8> {
    format!("--b\r\n{headers}\r\n\r\nx\r\n--b--\r\n").into()
}

fn disposition(parameters: &str) -> Vec<u8> {
    part(&format!("Content-Disposition: form-data{parameters}"))
}

fn with_header(header: &str) -> Vec<u8> {
    part(&format!(
        "Content-Disposition: form-data; name=model\r\n{header}"
    ))
}

/// The name, as far as it is text, and the content of each part, as `multer` reads them.
fn multer(boundary: &[u8], document: &[u8]) -> multer::Result<Vec<(Option<String>, Bytes)>> {
    let chunk = Ok::<_, Infallible>(document.to_vec());
    let boundary = String::from_utf8_lossy(boundary);
    let mut form = multer::Multipart::new(tokio_stream::once(chunk), boundary);
    let read = pin!(async {
        let mut parts = Vec::new();
        while let Some(field) = form.next_field().await? {
            parts.push((field.name().map(str::to_owned), field.bytes().await?));
        }
        Ok(parts)
    });
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => unreachable!("the whole document is there"),
    }
}

#[test]
fn finds_the_model_of_what_clients_send() {
    #[rustfmt::skip]
    let cases = [
        ("curl", "------------------------a9faf06fe5920ffe", "--------------------------a9faf06fe5920ffe\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--------------------------a9faf06fe5920ffe\r\nContent-Disposition: form-data; name=\"file\"; filename=\"q%22ü\\x.wav\"\r\nContent-Type: application/octet-stream\r\n\r\naudio\r\n--------------------------a9faf06fe5920ffe--\r\n"),
        ("the Python SDK (httpx)", "61c1fac0d7b4e2a9484e377d89d92b5e", "--61c1fac0d7b4e2a9484e377d89d92b5e\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--61c1fac0d7b4e2a9484e377d89d92b5e\r\nContent-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nword\r\n--61c1fac0d7b4e2a9484e377d89d92b5e\r\nContent-Disposition: form-data; name=\"file\"; filename=\"q%22ü\\\\x.wav\"\r\nContent-Type: audio/x-wav\r\n\r\nabc\r\n--61c1fac0d7b4e2a9484e377d89d92b5e--\r\n"),
        ("the Node SDK (undici)", "----formdata-undici-039364581950", "------formdata-undici-039364581950\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n------formdata-undici-039364581950\r\nContent-Disposition: form-data; name=\"file\"; filename=\"q%22ü\\x.wav\"\r\nContent-Type: audio/wav\r\n\r\nx\r\n------formdata-undici-039364581950--\r\n"),
        ("aiohttp", "7568deb29cf3467bab0a8808b06622ae", "--7568deb29cf3467bab0a8808b06622ae\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--7568deb29cf3467bab0a8808b06622ae--\r\n"),
        (".NET", "5bd1ba2f-2f57-4d3b-b9a5-2f0a3f4b7a11", "--5bd1ba2f-2f57-4d3b-b9a5-2f0a3f4b7a11\r\nContent-Type: audio/wav\r\nContent-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav\r\n\r\nx\r\n--5bd1ba2f-2f57-4d3b-b9a5-2f0a3f4b7a11\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\nwhisper-1\r\n--5bd1ba2f-2f57-4d3b-b9a5-2f0a3f4b7a11--\r\n"),
    ];
    for (client, boundary, document) in cases {
        let models = models_cut(boundary.as_bytes(), document.as_bytes());
        assert_eq!(models, Ok(vec![b"whisper-1".as_slice()]), "{client}");
        let parts = multer(boundary.as_bytes(), document.as_bytes()).unwrap();
        assert!(
            parts.contains(&(Some("model".into()), "whisper-1".into())),
            "{client}"
        );
    }
}

#[test]
fn finds_the_contents_of_model_parts() {
    #[rustfmt::skip]
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("no parts", b"--b--", &[]),
        ("no parts, and a last line break", b"--b--\r\n", &[]),
        ("no model", b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nx\r\n--b--", &[]),
        ("an empty one", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\n\r\n--b--", &[""]),
        ("line breaks in it", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\n\r\nx\r\n\r\n--b--", &["\r\nx\r\n"]),
        ("the start of a delimiter in it", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\n\r\n-\r\n--\r\n\r\n--b--", &["\r\n-\r\n--\r\n"]),
        ("two", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name=model\r\n\r\ny\r\n--b--", &["x", "y"]),
        ("the name of another in its content", b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n--b--", &[]),
        ("an empty line first", b"\r\n--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n--b--", &["x"]),
        ("a preamble and an epilogue", b"one\r\ntwo\r\n--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n--b--\r\nthree\r\n", &["x"]),
    ];
    for (case, document, models) in cases {
        let models = models.iter().map(|model| model.as_bytes()).collect();
        assert_eq!(models_cut(BOUNDARY, document), Ok(models), "{case}");
        assert!(multer(BOUNDARY, document).is_ok(), "{case}");
    }
}

#[test]
fn tells_the_model_by_its_name() {
    #[rustfmt::skip]
    let cases = [
        ("a token", "; name=model", true),
        ("a quoted string", "; name=\"model\"", true),
        ("an escape", "; name=\"mod\\el\"", true),
        ("an extended value", "; name*=utf-8'en'mod%65l", true),
        ("both", "; name=\"model\"; name*=UTF-8''model", true),
        ("twice", "; name=model; name=\"model\"", true),
        ("another case of the parameter", "; NAME=model", true),
        ("a file", "; name=\"model\"; filename=\"model\"", true),
        ("a file first", ";filename=\"a;\\\"b\" ;; name=\"model\" ;", true),
        ("no spaces", ";name=model", true),
        ("other parameters", "; names=x; y=\"\"; name=model", true),
        ("the name of a file", "; name=file; filename=model; filename*=''model", false),
        ("another case", "; name=Model", false),
        ("longer", "; name=models", false),
        ("shorter", "; name=mode", false),
        ("a space", "; name=\"model \"", false),
        ("an array", "; name=\"model[]\"", false),
        ("empty", "; name=\"\"", false),
        ("quotes in it", "; name=\"\\\"model\\\"\"", false),
        ("percent-encoded", "; name=mod%65l", false),
    ];
    for (case, parameters, is_model) in cases {
        let document = disposition(parameters);
        let models = if is_model {
            vec![b"x".as_slice()]
        } else {
            vec![]
        };
        assert_eq!(models_cut(BOUNDARY, &document), Ok(models), "{case}");
    }
}

#[test]
fn reads_part_headers() {
    #[rustfmt::skip]
    let cases = [
        ("another case", part("content-disposition:FORM-DATA;name=model")),
        ("spaces around", part("Content-Disposition: \tform-data ; name=model \t")),
        ("an empty field", with_header("X-Empty:")),
        ("a field that is not ASCII", with_header("X-Name: ü")),
        ("an encoding that changes nothing", with_header("Content-Transfer-Encoding: 8BIT")),
        ("a charset that keeps ASCII", with_header("Content-Type: text/plain; charset=\"UTF-8\"")),
        ("another one", with_header("Content-Type: text/plain;charset=ISO-8859-1")),
        ("a type without parameters", with_header("Content-Type: application/octet-stream")),
        ("encoded files", [disposition("; name=model").strip_suffix(b"--\r\n").unwrap(), b"\r\nContent-Disposition: form-data; name=file\r\nContent-Transfer-Encoding: base64\r\nContent-Type: text/plain; charset=utf-16\r\n\r\neA==\r\n--b--"].concat()),
    ];
    for (case, document) in cases {
        let models = models_cut(BOUNDARY, &document);
        assert_eq!(models, Ok(vec![b"x".as_slice()]), "{case}");
    }
}

#[test]
fn refuses_what_is_no_form() {
    #[rustfmt::skip]
    let cases: &[(&str, &[u8], &str)] = &[
        ("nothing", b"", "the boundary is missing at byte 0"),
        ("JSON", b"{}", "the boundary is missing at byte 2"),
        ("another boundary", b"--c\r\n--c--", "the boundary is missing at byte 10"),
        ("a delimiter without an end", b"--b", "the boundary is never closed at byte 3"),
        ("nothing behind a delimiter", b"--b\r\n", "the boundary is never closed at byte 5"),
        ("an end within headers", b"--b\r\nContent-Disposition: form-data; name=model", "the boundary is never closed at byte 47"),
        ("an end within the content", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx", "the boundary is never closed at byte 52"),
        ("no closing hyphens", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n--b\r\n", "the boundary is never closed at byte 59"),
        ("one closing hyphen", b"--b-", "the boundary is never closed at byte 4"),
        ("half a last line break", b"--b--\r", "the boundary is never closed at byte 6"),
        ("a longer boundary", b"--bc\r\n", "malformed boundary line at byte 3"),
        ("a longer boundary in the content", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n--bc\r\n--b--", "malformed boundary line at byte 57"),
        ("padding", b"--b \r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n--b--", "malformed boundary line at byte 3"),
        ("padding at the end", b"--b-- \r\n", "malformed boundary line at byte 5"),
        ("a bare LF behind the boundary", b"--b\nContent", "malformed boundary line at byte 3"),
        ("a bare LF at the end", b"--b--\n\n", "malformed boundary line at byte 5"),
        ("bytes at the end", b"--b--xy", "malformed boundary line at byte 5"),
        ("a boundary in a line", b"x--b\r\n", "misplaced boundary at byte 1"),
        ("a boundary in a line of the content", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx--b--", "misplaced boundary at byte 52"),
        ("a bare LF before the boundary", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx\n--b--", "misplaced boundary at byte 53"),
        ("a bare CR before the boundary", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r--b--", "misplaced boundary at byte 53"),
        ("a boundary right behind the headers", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\n--b--", "misplaced boundary at byte 51"),
        ("a boundary in the epilogue", b"--b--\r\n\r\n--b\r\n", "misplaced boundary at byte 9"),
        ("a boundary right behind the end", b"--b--\r\n--b\r\n", "misplaced boundary at byte 7"),
        ("a part without headers", b"--b\r\n\r\nx\r\n--b--", "part without a name at byte 5"),
        ("a part without a disposition", b"--b\r\nA: b\r\n\r\nx\r\n--b--", "part without a name at byte 11"),
        ("headers that end in LF", b"--b\r\nContent-Disposition: form-data; name=model\n\nx\r\n--b--", "bare line feed in part headers at byte 5"),
        ("an empty line that ends in LF", b"--b\r\nContent-Disposition: form-data; name=model\r\n\nx\r\n--b--", "bare line feed in part headers at byte 49"),
    ];
    for (case, document, error) in cases {
        let models = models_cut(BOUNDARY, document);
        assert_eq!(models, Err((*error).into()), "{case}");
    }
}

#[test]
fn refuses_ambiguous_part_headers() {
    #[rustfmt::skip]
    let cases = [
        ("no name", disposition(""), "part without a name"),
        ("only a file's name", disposition("; filename=model"), "part without a name"),
        ("another disposition", part("Content-Disposition: attachment; name=model"), "Content-Disposition other than form-data"),
        ("a longer disposition", part("Content-Disposition: form-datax; name=model"), "malformed parameter"),
        ("two dispositions", with_header("content-disposition: form-data; name=model"), "second Content-Disposition"),
        ("two names", disposition("; name=a; name=model"), "conflicting parameters"),
        ("two names in two cases", disposition("; name=a; NAME=model"), "conflicting parameters"),
        ("two names, one of them extended", disposition("; name=a; name*=utf-8''model"), "conflicting parameters"),
        ("a split name", disposition("; name*0=mo; name*1=del"), "split parameter"),
        ("a split and encoded name", disposition("; name*0*=utf-8''model"), "split parameter"),
        ("an extended name in another charset", disposition("; name*=utf-7''mod+AGU-l"), "undecodable parameter"),
        ("an extended name without a charset", disposition("; name*=model"), "undecodable parameter"),
        ("an extended name with a bad escape", disposition("; name*=utf-8''mod%6xl"), "undecodable parameter"),
        ("an encoded word", disposition("; name=\"=?utf-8?q?model?=\""), "encoded word in a name"),
        ("a name in the name of a file", disposition("; filename=\"x; name=model\"; name=a"), "misleading parameter"),
        ("a name behind an escaped quote", disposition("; filename=\"\\\"; Name = model; \"; name=a"), "misleading parameter"),
        ("an extended name in the name of a file", disposition("; filename=\"; name*=utf-8''model\"; name=a"), "misleading parameter"),
        ("a key that ends in `name`", disposition("; x-name=model; name=a"), "misleading parameter"),
        ("space before `=`", disposition("; name =model"), "malformed parameter"),
        ("space behind `=`", disposition("; name= model"), "malformed parameter"),
        ("no value", disposition("; name"), "malformed parameter"),
        ("an empty value", disposition("; name="), "malformed parameter"),
        ("a space in a token", disposition("; name=model x"), "malformed parameter"),
        ("text behind a quoted string", disposition("; name=\"model\"x"), "malformed parameter"),
        ("no semicolon", disposition(" name=model"), "malformed parameter"),
        ("a quote without an end", disposition("; name=\"model"), "unterminated quoted string"),
        ("an escaped last quote", disposition("; name=\"model\\\""), "unterminated quoted string"),
        ("a folded line", part("Content-Disposition: form-data; name=a;\r\n name=model"), "malformed part header"),
        ("a field without a colon", with_header("x"), "malformed part header"),
        ("a space before the colon", with_header("Content-Disposition : form-data; name=a"), "malformed part header"),
        ("a field without a name", with_header(": x"), "malformed part header"),
        ("a bare CR", with_header("a: b\rc: d"), "control character in a part header"),
        ("a NUL", disposition("; name=\"model\0\""), "control character in a part header"),
        ("an encoded model", with_header("Content-Transfer-Encoding: base64"), "encoded `model` part"),
        ("an encoded model, said twice", with_header("Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: 7bit"), "encoded `model` part"),
        ("an encoded model, said before its name", part("Content-Transfer-Encoding: quoted-printable\r\nContent-Disposition: form-data; name=model"), "encoded `model` part"),
        ("a model in another charset", with_header("Content-Type: text/plain; charset=utf-7"), "encoded `model` part"),
        ("a model in two charsets", with_header("Content-Type: text/plain; charset=utf-7\r\nContent-Type: text/plain"), "encoded `model` part"),
        ("a model of a malformed type", with_header("Content-Type: text/plain; charset"), "encoded `model` part"),
        ("a nested multipart", part("Content-Disposition: form-data; name=a\r\nContent-Type: Multipart/mixed; boundary=c"), "nested multipart"),
    ];
    for (case, document, error) in cases {
        let invalid = models_cut(BOUNDARY, &document).expect_err(case);
        let (what, _) = invalid.split_once(" at byte ").unwrap();
        assert_eq!(what, error, "{case}");
    }
}

#[test]
fn finds_a_boundary_of_hyphens() {
    for boundary in [&b"-"[..], b"--", b"-----", b"a-", b"--a--"] {
        let delimiter = [b"--", boundary].concat();
        let header = b"Content-Disposition: form-data; name=model";
        let document = [
            &delimiter,
            &b"\r\n"[..],
            header,
            b"\r\n\r\n-\r\n-\r\n",
            &delimiter,
            b"--",
        ];
        let document = document.concat();
        let models = models_cut(boundary, &document);
        assert_eq!(
            models,
            Ok(vec![&b"-\r\n-"[..]]),
            "{}",
            document.escape_ascii()
        );
    }
}

#[test]
fn limits_the_headers_of_each_part() {
    let start = b"--b\r\nContent-Disposition: form-data; name=model\r\nx:";
    let end = b"\r\n\r\nx\r\n--b";
    let size = 16 * 1024 - (start.len() - b"--b\r\n".len()) - b"\r\n\r\n".len();
    let part = |size| [start, &vec![b'y'; size][..], end].concat();
    let fits = [
        part(size),
        b"\r\n".to_vec(),
        part(size)[5..].to_vec(),
        b"--".to_vec(),
    ]
    .concat();
    let models = contents(&fits, scan(BOUNDARY, fits.chunks(1000)));
    assert_eq!(models, Ok(vec![&b"x"[..]; 2]));
    for size in [size + 1, 1_000_000] {
        let document = part(size);
        for length in [1, 1000, document.len()] {
            let invalid = scan(BOUNDARY, document.chunks(length)).unwrap_err();
            assert_eq!(
                invalid.to_string(),
                "part headers over 16 KiB at byte 16389"
            );
        }
    }

    assert!(scan(BOUNDARY, [&with_header(&["a: b"; 63].join("\r\n"))[..]]).is_ok());
    let document = with_header(&["a: b"; 64].join("\r\n"));
    let invalid = scan(BOUNDARY, [&document[..]]).unwrap_err();
    assert_eq!(invalid.to_string(), "more than 64 part headers at byte 427");
}

#[test]
fn limits_the_models_only() {
    let form = |name, parts| {
        let part = format!("--b\r\nContent-Disposition: form-data; name={name}\r\n\r\nx\r\n");
        [part.repeat(parts), "--b--".into()].concat()
    };
    let scan = |form: String| scan(BOUNDARY, form.as_bytes().chunks(4096));
    assert_eq!(scan(form("file", 10_000)).unwrap().models, []);
    assert_eq!(scan(form("model", 1000)).unwrap().models.len(), 1000);
    let invalid = scan(form("model", 1001)).unwrap_err().to_string();
    assert_eq!(invalid, "more than 1000 `model` parts at byte 54051");
}

#[test]
fn scans_long_contents() {
    let mut scanner = Scanner::new(BOUNDARY);
    let start = disposition("; name=model");
    scanner
        .feed(start.strip_suffix(b"x\r\n--b--\r\n").unwrap())
        .unwrap();
    for _ in 0..1000 {
        scanner.feed(b"\r\n-\r\n--\r\n\r\n-").unwrap();
        scanner.feed(&[b'-'; 1000]).unwrap();
    }
    scanner.feed(b"\r\n--b--").unwrap();
    let content = start.len() - b"x\r\n--b--\r\n".len();
    let models = scanner.finish().unwrap().models;
    assert_eq!(models.first(), Some(&(content..content + 1_012_000)));
}

#[test]
fn reads_the_boundary() {
    let longest = "x".repeat(70);
    #[rustfmt::skip]
    let cases = [
        ("a token", "multipart/form-data; boundary=abc", Some("abc")),
        ("a quoted string", "multipart/form-data; boundary=\"a b:c\"", Some("a b:c")),
        ("another case", "Multipart/Form-Data;BOUNDARY=aBc", Some("aBc")),
        ("other parameters", "multipart/form-data ; charset=utf-8;; boundary=abc ; x=\"y;z\"", Some("abc")),
        ("twice the same", "multipart/form-data; boundary=abc; boundary=\"abc\"", Some("abc")),
        ("one that is called so", "multipart/form-data; boundary=----Boundary", Some("----Boundary")),
        ("the longest", &format!("multipart/form-data; boundary={longest}"), Some(&longest)),
        ("none", "multipart/form-data", None),
        ("an empty one", "multipart/form-data; boundary=\"\"", None),
        ("one that is too long", &format!("multipart/form-data; boundary={longest}x"), None),
        ("another type", "multipart/mixed; boundary=abc", None),
        ("a longer type", "multipart/form-data2; boundary=abc", None),
        ("a list", "multipart/form-data; boundary=abc, multipart/form-data; boundary=def", None),
        ("two", "multipart/form-data; boundary=abc; boundary=def", None),
        ("two in two cases", "multipart/form-data; boundary=abc; Boundary=ABC", None),
        ("two, one of them extended", "multipart/form-data; boundary=abc; boundary*=utf-8''def", None),
        ("one in another parameter", "multipart/form-data; x=\"; boundary=def\"; boundary=abc", None),
        ("one in another key", "multipart/form-data; xboundary=def; boundary=abc", None),
        ("a split one", "multipart/form-data; boundary*0=abc", None),
        ("an escape", "multipart/form-data; boundary=\"a\\bc\"", None),
        ("a space at the end", "multipart/form-data; boundary=\"abc \"", None),
        ("a byte that no boundary has", "multipart/form-data; boundary=a&bc", None),
        ("a token that is none", "multipart/form-data; boundary=a/b", None),
        ("space around `=`", "multipart/form-data; boundary = abc", None),
        ("a charset that changes names", "multipart/form-data; charset=utf-7; boundary=abc", None),
    ];
    for (case, content_type, expected) in cases {
        let found = boundary(content_type.as_bytes());
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{case}");
        if let (Some(expected), Ok(theirs)) = (expected, multer::parse_boundary(content_type)) {
            assert_eq!(theirs, expected, "{case}");
        }
    }
}

/// A form.
fn form() -> impl Strategy<Value = Vec<u8>> {
    let name = select(vec![
        "model",
        "\"model\"",
        "file",
        "\"a;b\"",
        "\"mo del\"",
        "\"model\\\"\"",
    ]);
    let file = select(vec!["", "; filename=a.wav", "; filename=\"a;b=\\\\\""]);
    let header = select(vec![
        "",
        "\r\nContent-Type: audio/wav",
        "\r\nX: ;name=model",
    ]);
    let chunks = select(vec!["\r\n", "\n", "\r", "-", "--", "b", "c", "model"]);
    let content = vec(chunks, 0..8).prop_map(|chunks| chunks.concat());
    let content = content.prop_filter("a delimiter", |content| !content.contains("--b"));
    let part = (name, file, header, content).prop_map(|(name, file, header, content)| {
        let disposition = format!("Content-Disposition: form-data; name={name}{file}");
        format!("--b\r\n{disposition}{header}\r\n\r\n{content}\r\n")
    });
    let around = (
        select(vec!["", "\r\n", "x\r\n"]),
        select(vec!["", "\r\n", "\r\nx"]),
    );
    (vec(part, 0..5), around).prop_map(|(parts, (preamble, epilogue))| {
        format!("{preamble}{}--b--{epilogue}", parts.concat()).into()
    })
}

/// The same with a few bytes replaced.
fn broken_form() -> impl Strategy<Value = Vec<u8>> {
    let bytes = select(vec![
        "",
        "\r\n",
        "\n",
        "\r",
        "--b",
        "\r\n--b",
        "\n--b\r\n",
        "--b--",
        " ",
        "\t",
        ":",
        ";",
        "=",
        "\"",
        "\\",
        "*",
        ";name=",
        "model",
        "\r\n\r\n",
    ]);
    let replaced = (any::<Index>(), 0..4_usize, bytes);
    (form(), vec(replaced, 1..4)).prop_map(|(mut form, replaced)| {
        for (at, removed, bytes) in replaced {
            let at = at.index(form.len() + 1);
            let end = form.len().min(at + removed);
            form.splice(at..end, bytes.bytes());
        }
        form
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_multer(form in form()) {
        let ours = contents(&form, scan(BOUNDARY, [&form[..]]));
        let theirs = multer(BOUNDARY, &form).unwrap();
        let theirs = theirs.iter().filter(|(name, _)| name.as_deref() == Some("model"));
        let theirs = theirs.map(|(_, content)| &content[..]).collect();
        prop_assert_eq!(ours, Ok(theirs), "{}", form.escape_ascii());
    }

    #[test]
    fn misses_no_model_of_multer(form in broken_form()) {
        if let (Ok(found), Ok(parts)) = (scan(BOUNDARY, [&form[..]]), multer(BOUNDARY, &form)) {
            let mut ours = found.models.into_iter().map(|span| &form[span]);
            for (name, content) in parts {
                if name.as_deref() == Some("model") {
                    prop_assert!(ours.any(|ours| ours == content), "{}", form.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn is_right_at_every_cut(form in broken_form(), length in 1..20_usize) {
        let whole = scan(BOUNDARY, [&form[..]]);
        prop_assert_eq!(scan(BOUNDARY, form.chunks(length)), whole);
    }
}
