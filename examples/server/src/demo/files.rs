//! `/files`.

use serde_json::json;

use super::{answer::Answer, error::ApiError, form::Form, id};

/// The file is counted and forgotten.
pub(super) fn upload(form: &Form) -> Result<Answer, ApiError> {
    let file = form.file()?;
    let purpose = form.field("purpose");
    let purpose = purpose.ok_or_else(|| ApiError::missing("purpose"))?;
    Ok(Answer::Json(json!({
        "id": id::unique("file-"),
        "object": "file",
        "bytes": file.bytes,
        "created_at": id::now(),
        "expires_at": null,
        "filename": file.name,
        "purpose": purpose,
        "status": "processed",
        "status_details": null,
    })))
}
