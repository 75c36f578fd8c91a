//! JSON made from a schema.

use serde_json::{Map, Value, json};

/// A JSON text that roughly satisfies a schema.
pub(super) fn sample(schema: &Value) -> String {
    let mut sample = Sample {
        root: schema,
        budget: MAX_BYTES,
    };
    sample.of(schema, "value", 0).to_string()
}

const MAX_BYTES: usize = 64 * 1024;
const MAX_DEPTH: usize = 6;

/// The value made from a recursive schema could have any size.
struct Sample<'a> {
    root: &'a Value,
    /// How many bytes of JSON it may still grow by.
    budget: usize,
}

impl<'a> Sample<'a> {
    /// `name` is that of the property the value is for.
    fn of(&mut self, schema: &'a Value, name: &str, depth: usize) -> Value {
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        let depth = depth + 1;
        if let Some(reference) = schema["$ref"].as_str() {
            let definition = self.root.pointer(reference.trim_start_matches('#'));
            return self.of(definition.unwrap_or(&Value::Null), name, depth);
        }
        let given = [&schema["const"], &schema["default"], &schema["enum"][0]];
        if let Some(value) = given.into_iter().find(|value| !value.is_null()) {
            let fits = self.spend(value.to_string().len());
            return if fits { value.clone() } else { Value::Null };
        }
        let first_of = [
            &schema["anyOf"][0],
            &schema["oneOf"][0],
            &schema["allOf"][0],
        ];
        if let Some(schema) = first_of.into_iter().find(|schema| !schema.is_null()) {
            return self.of(schema, name, depth);
        }
        let kinds = [&schema["type"], &schema["type"][0]];
        match kinds.into_iter().find_map(Value::as_str) {
            Some("string") => format!("demo {}", name.replace('_', " ")).into(),
            Some("integer") => schema["minimum"].as_i64().unwrap_or(1).into(),
            Some("number") => schema["minimum"].as_f64().unwrap_or(1.5).into(),
            Some("boolean") => true.into(),
            Some("array") => json!([self.of(&schema["items"], name, depth)]),
            Some("null") => Value::Null,
            _ => {
                let mut object = Map::new();
                for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                    // The name, a value that may repeat it, and the punctuation around them.
                    if !self.spend(2 * name.len() + 10) {
                        break;
                    }
                    object.insert(name.clone(), self.of(schema, name, depth));
                }
                object.into()
            }
        }
    }

    /// Whether the budget allows for it.
    fn spend(&mut self, bytes: usize) -> bool {
        let left = self.budget.checked_sub(bytes);
        self.budget = left.unwrap_or(self.budget);
        left.is_some()
    }
}
