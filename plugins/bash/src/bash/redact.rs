//! Secrets out of commands, by expressions of the operator's. Text in, text out.

use anyhow::{Result, anyhow};
use regex::{NoExpand, Regex};

/// What is put in place of a secret.
const INSTEAD: &str = "***";

/// Takes out what its expressions match.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redactor {
    secrets: Vec<Regex>,
}

impl Redactor {
    /// An expression that is none is an error that names it.
    pub(crate) fn new(expressions: &[String]) -> Result<Self> {
        let compile = |expression: &String| {
            Regex::new(expression).map_err(|error| {
                // Its last line is the reason; those before point into the expression.
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default();
                let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                anyhow!("bash_redact: `{expression}` is no regular expression: {reason}")
            })
        };
        Ok(Self { secrets: expressions.iter().map(compile).collect::<Result<_>>()? })
    }

    /// The text without them, by one expression after the other.
    pub(crate) fn apply(&self, mut text: String) -> String {
        for secret in &self.secrets {
            if let std::borrow::Cow::Owned(redacted) = secret.replace_all(&text, NoExpand(INSTEAD))
            {
                text = redacted;
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Redactor;

    fn redacted(expressions: &[&str], text: &str) -> String {
        let expressions: Vec<_> = expressions.iter().map(|&text| text.to_owned()).collect();
        Redactor::new(&expressions).unwrap().apply(text.to_owned())
    }

    #[test]
    fn what_matches_is_replaced_wherever_it_is_and_the_rest_stays() {
        assert_eq!(redacted(&[], "mysql -psecret"), "mysql -psecret");
        let both = ["-p[^ ]+", "(?i)token=[^ ]+"];
        let text = "mysql -pone -ptwo; curl -d Token=$1é x\nTOKEN=b";
        assert_eq!(redacted(&both, text), "mysql *** *** curl -d *** x\n***");
    }

    #[test]
    fn an_expression_that_is_none_is_an_error_that_names_it() {
        let error = Redactor::new(&["fine".to_owned(), "pass(".to_owned()]).unwrap_err();
        let expected = "bash_redact: `pass(` is no regular expression: unclosed group";
        assert_eq!(error.to_string(), expected);
        // Not only what is misspelt: this one would take too much memory.
        let error = Redactor::new(&["(a{9999}){9999}".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("(a{9999}){9999}"), "{error}");
    }
}
