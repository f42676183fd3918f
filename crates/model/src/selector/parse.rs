//! The parser: recursive descent over the text itself, with a limit on nesting.

use super::Expression;
use std::collections::BTreeSet;

/// Deepest nesting of parentheses: far beyond what anyone writes, far from the end of the stack.
const DEPTH: usize = 256;

/// Longest label key.
const KEY: usize = 512;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, String>;

/// Parses a selector; the error says at which character (from 1) what was expected.
pub(super) fn parse(text: &str) -> Parsed<Expression> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.blanks();
    if parser.rest().is_empty() {
        return Ok(Expression::All);
    }
    let expression = parser.or()?;
    if parser.rest().is_empty() {
        return Ok(expression);
    }
    Err(match parser.rest().as_bytes()[0] {
        b')' => parser.wrong("this ')' has no '('"),
        _ => parser.expected("'&&', '||' or the end"),
    })
}

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    /// Takes a sign and the blanks after it, if it is next.
    fn take(&mut self, sign: &str) -> bool {
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len();
            self.blanks();
        }
        found
    }

    /// Takes a word and the blanks after it, if it is next and does not go on.
    fn take_word(&mut self, word: &str) -> bool {
        let Some(after) = self.rest().strip_prefix(word) else { return false };
        if after.starts_with(is_key_char) {
            return false;
        }
        self.take(word)
    }

    /// Takes two words, with blanks or nothing between them.
    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        if self.take(first) && self.take_word(second) {
            return true;
        }
        self.at = start;
        false
    }

    fn wrong(&self, what: &str) -> String {
        let column = self.text[..self.at].chars().count() + 1;
        format!("character {column}: {what}")
    }

    fn expected(&self, what: &str) -> String {
        let rest = self.rest();
        let Some(next) = rest.chars().next() else { return self.wrong(&format!("ends where {what} is expected")) };
        let found: String = match rest.find(|c| !is_key_char(c)) {
            Some(0) => next.escape_default().to_string(),
            Some(end) => rest[..end].chars().take(40).collect(),
            None => rest.chars().take(40).collect(),
        };
        let hint = match (next, what) {
            ('=', "a test") => "; write '==' to compare",
            ('\n' | '\r', _) => "; only space and tab may separate words",
            _ if what == "text in quotes" && is_key_char(next) => "; put it in quotes",
            _ if found == "and" => "; write '&&'",
            _ if found == "or" => "; write '||'",
            _ => "",
        };
        let what = if what == "a test" { "==, !=, in, not in, contains, starts with or ends with" } else { what };
        self.wrong(&format!("found '{found}' where {what} is expected{hint}"))
    }

    fn or(&mut self) -> Parsed<Expression> {
        self.sequence("||", Self::and, Expression::Or)
    }

    fn and(&mut self) -> Parsed<Expression> {
        self.sequence("&&", Self::term, Expression::And)
    }

    fn sequence(
        &mut self,
        operator: &str,
        part: fn(&mut Self) -> Parsed<Expression>,
        join: fn(Vec<Expression>) -> Expression,
    ) -> Parsed<Expression> {
        let first = part(self)?;
        if !self.rest().starts_with(operator) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take(operator) {
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    fn term(&mut self) -> Parsed<Expression> {
        let mut negations = 0_usize;
        while self.take("!") {
            negations += 1;
        }
        let expression = if self.take("(") {
            self.depth += 1;
            if self.depth > DEPTH {
                return Err(self.wrong(&format!("more than {DEPTH} parentheses within each other")));
            }
            let inner = self.or()?;
            if !self.take(")") {
                return Err(self.expected("')'"));
            }
            self.depth -= 1;
            inner
        } else {
            self.leaf()?
        };
        if negations.is_multiple_of(2) {
            return Ok(expression);
        }
        // A negated negation is the thing itself, also across parentheses.
        Ok(match expression {
            Expression::Not(inner) => *inner,
            other => Expression::Not(Box::new(other)),
        })
    }

    fn leaf(&mut self) -> Parsed<Expression> {
        for (word, expression) in [("all(", Expression::All), ("global(", Expression::Global)] {
            if self.take(word) {
                return if self.take(")") { Ok(expression) } else { Err(self.expected("')'")) };
            }
        }
        if self.take("has(") {
            let key = self.key()?;
            return if self.take(")") { Ok(Expression::Has(key)) } else { Err(self.expected("')'")) };
        }
        let key = self.key()?;
        self.test(key)
    }

    fn key(&mut self) -> Parsed<String> {
        let rest = self.rest();
        let end = rest.find(|c| !is_key_char(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.expected("a label, '!', '(', all() or has(…)"));
        }
        if end > KEY {
            return Err(self.wrong(&format!("the label is {end} characters long; at most {KEY} are allowed")));
        }
        self.at += end;
        self.blanks();
        Ok(rest[..end].to_owned())
    }

    fn test(&mut self, key: String) -> Parsed<Expression> {
        if self.take("==") {
            Ok(Expression::Equals(key, self.quoted()?))
        } else if self.take("!=") {
            Ok(Expression::Differs(key, self.quoted()?))
        } else if self.take_word("contains") {
            Ok(Expression::Contains(key, self.quoted()?))
        } else if self.take_words("starts", "with") {
            Ok(Expression::StartsWith(key, self.quoted()?))
        } else if self.take_words("ends", "with") {
            Ok(Expression::EndsWith(key, self.quoted()?))
        } else if self.take_word("in") {
            Ok(Expression::In(key, self.set()?))
        } else if self.take_words("not", "in") {
            Ok(Expression::NotIn(key, self.set()?))
        } else {
            Err(self.expected("a test"))
        }
    }

    fn quoted(&mut self) -> Parsed<String> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.expected("text in quotes"));
        };
        let Some(end) = rest[1..].find(quote) else {
            return Err(self.wrong(&format!("this {quote} has no closing {quote}")));
        };
        let text = rest[1..=end].to_owned();
        self.at += end + 2;
        self.blanks();
        Ok(text)
    }

    fn set(&mut self) -> Parsed<BTreeSet<String>> {
        if !self.take("{") {
            return Err(self.expected("'{'"));
        }
        let mut texts = BTreeSet::new();
        while !self.rest().starts_with('}') {
            texts.insert(self.quoted()?);
            if !self.take(",") {
                break;
            }
        }
        if self.take("}") { Ok(texts) } else { Err(self.expected("',' or '}'")) }
    }
}
