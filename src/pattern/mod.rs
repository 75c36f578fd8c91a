//! Patterns of model names, and the names that a backend gets in place of those that match.

#[cfg(test)]
mod tests;

/// A model's name, or several of them: one `*` stands for anything, the empty string included.
///
/// Names are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelPattern {
    text: Box<str>,
    specificity: Specificity,
}

/// Of several patterns that match a name, the greatest decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Specificity {
    /// It has a `*`, and this many other characters.
    Wildcard(usize),
    /// It is the name.
    Exact,
}

impl Specificity {
    /// That of `*`.
    pub(crate) const LEAST: Self = Self::Wildcard(0);
}

impl ModelPattern {
    /// What patterns must be, as messages say it after "must be".
    pub(crate) const ALLOWED: &str = "a model's name such as `gpt-4o`, or a pattern with one `*` \
        such as `gpt-*`, not empty and without control characters";

    /// `None` where the text isn't [allowed](Self::ALLOWED).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // U+FFFD stands for unpaired surrogates of a client's, which only a `*` matches.
        let is_plain = |c: char| !c.is_control() && c != char::REPLACEMENT_CHARACTER;
        let wildcards = text.matches('*').count();
        let is_allowed = !text.is_empty() && wildcards <= 1 && text.chars().all(is_plain);
        is_allowed.then(|| Self {
            text: text.into(),
            specificity: match wildcards {
                0 => Specificity::Exact,
                _ => Specificity::Wildcard(text.chars().count() - 1),
            },
        })
    }

    pub(crate) fn matches(&self, model: &str) -> bool {
        self.capture(model).is_some()
    }

    /// What the `*` stands for, if the pattern matches this model: nothing where it has none.
    pub(crate) fn capture<'m>(&self, model: &'m str) -> Option<&'m str> {
        capture(&self.text, model)
    }

    pub(crate) fn specificity(&self) -> Specificity {
        self.specificity
    }

    /// The only name that it matches, if it has no `*`.
    pub(crate) fn name(&self) -> Option<&str> {
        (self.specificity == Specificity::Exact).then_some(&*self.text)
    }
}

fn capture<'m>(pattern: &str, model: &'m str) -> Option<&'m str> {
    match pattern.split_once('*') {
        Some((before, after)) => model.strip_prefix(before)?.strip_suffix(after),
        None => (pattern == model).then_some(""),
    }
}

/// The models that a backend serves, and its names for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelMap {
    /// The most specific first.
    rules: Box<[Rule]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    pattern: ModelPattern,
    /// The name that the backend gets, in which `*` stands for what the pattern's matched; `None`:
    /// the client's.
    name: Option<Box<str>>,
}

impl ModelMap {
    /// Each pattern with the backend's name for what it matches; an empty one leaves the name as it
    /// is.
    pub(crate) fn new<'a>(rules: impl IntoIterator<Item = (ModelPattern, &'a str)>) -> Self {
        let rule = |(pattern, name): (_, &str)| Rule {
            pattern,
            name: (!name.is_empty()).then(|| name.into()),
        };
        let mut rules: Box<[Rule]> = rules.into_iter().map(rule).collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.pattern.specificity()));
        Self { rules }
    }

    /// The most specific rule for a model, and what its `*` stands for.
    fn rule<'m>(&self, model: &'m str) -> Option<(&Rule, &'m str)> {
        let mut rules = self.rules.iter();
        rules.find_map(|rule| Some((rule, rule.pattern.capture(model)?)))
    }

    /// How specific the best match is; `None` where nothing matches.
    pub(crate) fn specificity(&self, model: &str) -> Option<Specificity> {
        Some(self.rule(model)?.0.pattern.specificity())
    }

    /// Whether it gives any model another name.
    pub(crate) fn renames(&self) -> bool {
        self.rules.iter().any(|rule| rule.name.is_some())
    }

    /// The backend's name for a model, unless that is the client's.
    pub(crate) fn rename(&self, model: &str) -> Option<String> {
        let (rule, captured) = self.rule(model)?;
        Some(rule.name.as_ref()?.replace('*', captured))
    }

    /// The names under which clients reach what the backend calls `name`.
    pub(crate) fn aliases(&self, name: &str) -> Vec<String> {
        let unchanged = Some(name.to_owned());
        let renamed = self.rules.iter().map(|rule| {
            let renamed = rule.name.as_ref()?;
            let captured = capture(renamed, name)?;
            // Else there is no end of them.
            let is_one = renamed.contains('*') || rule.pattern.name().is_some();
            is_one.then(|| rule.pattern.text.replacen('*', captured, 1))
        });
        let mut aliases: Vec<String> = Vec::new();
        for alias in std::iter::once(unchanged).chain(renamed).flatten() {
            let reached = self
                .rule(&alias)
                .is_some_and(|_| match self.rename(&alias) {
                    Some(renamed) => renamed == name,
                    None => alias == name,
                });
            if reached && !aliases.contains(&alias) {
                aliases.push(alias);
            }
        }
        aliases
    }

    /// The patterns that are names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| rule.pattern.name())
    }
}
