use std::convert::Infallible;

use http_body_util::channel::Channel;
use hyper::Request;

use super::*;

const FORM: &str = "--line\r\n\
    Content-Disposition: form-data; name=\"purpose\"\r\n\
    \r\n\
    user_data\r\n\
    --line\r\n\
    Content-Disposition: form-data; name=\"file\"; filename=\"two lines.txt\"\r\n\
    Content-Type: text/plain\r\n\
    \r\n\
    one\r\n-\r\n--lin\r\n\r\n\
    --line--";

/// Reads a body that arrives in chunks of `size` bytes.
async fn read(content_type: &str, body: &str, size: usize) -> Option<Form> {
    let request = Request::builder().header("content-type", content_type);
    let (head, ()) = request.body(()).unwrap().into_parts();
    let (mut sender, body_of_form) = Channel::<Bytes, Infallible>::new(body.len());
    for chunk in body.as_bytes().chunks(size) {
        let chunk = Bytes::copy_from_slice(chunk);
        sender.send_data(chunk).await.unwrap();
    }
    drop(sender);
    Form::read(&head, body_of_form).await.ok()
}

#[tokio::test]
async fn a_form_may_arrive_in_any_chunks() {
    let file = File {
        name: "two lines.txt".to_owned(),
        bytes: "one\r\n-\r\n--lin\r\n".len() as u64,
    };
    let form = Form {
        fields: vec![("purpose".to_owned(), "user_data".to_owned())],
        file: Some(file),
    };
    for size in 1..=FORM.len() {
        for content_type in [
            "multipart/form-data; boundary=line",
            "multipart/form-data; boundary=\"line\"; charset=utf-8",
        ] {
            let read = read(content_type, FORM, size).await;
            assert_eq!(read.as_ref(), Some(&form), "{size}");
        }
    }
}

#[tokio::test]
async fn a_truncated_form_is_an_error() {
    for length in 1..FORM.len() {
        let read = read(
            "multipart/form-data; boundary=line",
            &FORM[..length],
            length,
        );
        assert_eq!(read.await, None, "{length}");
    }
}

#[tokio::test]
async fn a_form_without_a_boundary_is_an_error() {
    for content_type in ["multipart/form-data", "multipart/form-data; boundary="] {
        assert_eq!(read(content_type, FORM, FORM.len()).await, None);
    }
}

#[tokio::test]
async fn only_files_may_be_large() {
    let large = "a".repeat(MAX_TEXT);
    for (long, is_read) in [("two lines", false), ("user_data", false), ("one", true)] {
        let form = FORM.replace(long, &large);
        let read = read("multipart/form-data; boundary=line", &form, 1000);
        assert_eq!(read.await.is_some(), is_read, "{long}");
    }
}
