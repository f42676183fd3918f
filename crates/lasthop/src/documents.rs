//! From files, directories or stdin to resources: everything is read and checked before anything is done, and every
//! mistake names its file, document and field.

use crate::exit::Failure;
use lasthop_model::v3::{self, without_effect};
use lasthop_model::{Key, Problem, read_documents};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest file that is read.
const FILE_LIMIT: u64 = 64 << 20;

/// A valid resource as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// Where it stands: `pools.yaml:7`.
    pub(crate) origin: String,
    /// What names it.
    pub(crate) key: Key,
    /// The document, its namespace filled in.
    pub(crate) value: Value,
}

/// Where documents come from.
#[derive(Debug, clap::Args)]
pub(crate) struct Sources {
    /// A file, a directory (its .yaml, .yml and .json files), or - for stdin; repeat for several
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Also the directories inside a directory
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Namespace of resources that have one and do not say which [default: default]
    #[arg(short = 'n', long)]
    pub(crate) namespace: Option<String>,
}

/// What documents are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To be stored, or to be worked with.
    Use,
    /// To be told what is wrong with them.
    Check,
}

/// Documents that were read.
#[derive(Debug, Default)]
struct Checked {
    documents: Vec<Document>,
    /// What is valid, and of a kind that can only be checked; a line each.
    idle: Vec<String>,
    /// One line for each thing that is not valid.
    mistakes: Vec<String>,
}

/// A text and where it is from.
struct Text {
    origin: String,
    text: String,
}

impl Sources {
    /// Reads and checks all documents. What is accepted but has no effect is noted on stderr.
    pub(crate) fn read(&self) -> Result<Vec<Document>, Failure> {
        self.valid(Purpose::Use).map(|(documents, _)| documents)
    }

    /// Reads and checks all documents, also those of kinds that this version can check and not use: their number
    /// is returned. What has no effect is noted on stderr.
    pub(crate) fn count_valid(&self) -> Result<usize, Failure> {
        let (documents, idle) = self.valid(Purpose::Check)?;
        for note in &idle {
            eprintln!("note: {note}");
        }
        Ok(documents.len() + idle.len())
    }

    fn valid(&self, purpose: Purpose) -> Result<(Vec<Document>, Vec<String>), Failure> {
        let mut texts = Vec::new();
        for file in &self.files {
            self.gather(file, &mut texts).map_err(Failure::usage)?;
        }
        let Checked { documents, idle, mistakes } = check(&texts, self.namespace.as_deref(), purpose);
        if !mistakes.is_empty() {
            return Err(Failure { exit: crate::exit::Exit::Usage, lines: mistakes });
        }
        if documents.is_empty() && idle.is_empty() {
            let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
            return Err(Failure::usage(format!("no resources in {}: nothing to do", files.join(", "))));
        }
        for document in &documents {
            for notice in without_effect(&document.value) {
                eprintln!("note: {}: {}: {notice}", document.origin, document.key);
            }
        }
        Ok((documents, idle))
    }

    /// Takes in a file, stdin, or what is in a directory, in the order of names.
    fn gather(&self, path: &Path, texts: &mut Vec<Text>) -> Result<(), String> {
        if path == Path::new("-") {
            let text = read_whole(std::io::stdin().lock(), "stdin")?;
            texts.push(Text { origin: "stdin".to_owned(), text });
            return Ok(());
        }
        let origin = path.display().to_string();
        let wrong = |error: std::io::Error| format!("cannot read {origin}: {error}");
        if !std::fs::metadata(path).map_err(wrong)?.is_dir() {
            let text = read_whole(std::fs::File::open(path).map_err(wrong)?, &origin)?;
            texts.push(Text { origin, text });
            return Ok(());
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(wrong)? {
            let entry = entry.map_err(wrong)?.path();
            let extension = entry.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if if entry.is_dir() { self.recursive } else { ["yaml", "yml", "json"].contains(&extension) } {
                found.push(entry);
            }
        }
        found.sort();
        found.iter().try_for_each(|entry| self.gather(entry, texts))
    }
}

fn read_whole(from: impl Read, origin: &str) -> Result<String, String> {
    let mut text = String::new();
    match from.take(FILE_LIMIT + 1).read_to_string(&mut text) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(format!("cannot read {origin}: it is not UTF-8 text"))
        }
        Err(error) => Err(format!("cannot read {origin}: {error}")),
        Ok(length) if length as u64 > FILE_LIMIT => {
            Err(format!("cannot read {origin}: it is longer than {} MiB; split it", FILE_LIMIT >> 20))
        }
        Ok(_) => Ok(text),
    }
}

/// Checks every document of every text: what is valid, and one line for each thing that is not.
fn check(texts: &[Text], namespace: Option<&str>, purpose: Purpose) -> Checked {
    let Checked { mut documents, mut idle, mut mistakes } = Checked::default();
    let mut seen: BTreeMap<Key, String> = BTreeMap::new();
    for Text { origin, text } in texts {
        let read = match read_documents(text, origin) {
            Ok(read) => read,
            Err(error) => {
                mistakes.push(error.to_string());
                continue;
            }
        };
        for mut document in read {
            fill_in(&mut document.value, namespace);
            let key = match document.parse().and_then(|_| Key::of(&document.value)) {
                Ok(key) => key,
                Err(invalid) if purpose == Purpose::Use => {
                    mistakes.extend(document.lines(&invalid));
                    continue;
                }
                Err(_) => {
                    match v3::check(&document.value) {
                        Ok(()) => {
                            let line = document.line("").map(|line| format!(":{line}")).unwrap_or_default();
                            let kind = kind_of(&document.value);
                            idle.push(format!(
                                "{origin}{line}: {kind}: is only checked; this version has no use for it yet"
                            ));
                        }
                        Err(invalid) => mistakes.extend(document.lines(&invalid)),
                    }
                    continue;
                }
            };
            let line = document.line("").map(|line| format!(":{line}")).unwrap_or_default();
            let origin = format!("{origin}{line}");
            let wanted = key.namespace.as_deref().and(namespace);
            if let (Some(found), Some(wanted)) = (&key.namespace, wanted)
                && found != wanted
            {
                let reason = format!("is '{found}', but --namespace says '{wanted}'; drop one of them");
                let problem = Problem { path: "metadata.namespace".into(), value: found.clone(), reason };
                let invalid = lasthop_model::Invalid { key: Some(key), problems: vec![problem] };
                mistakes.extend(document.lines(&invalid));
                continue;
            }
            match seen.insert(key.clone(), origin.clone()) {
                Some(first) => mistakes.push(format!("{origin}: {key}: is already at {first}; remove one of them")),
                None => documents.push(Document { origin, key, value: document.value }),
            }
        }
    }
    Checked { documents, idle, mistakes }
}

fn kind_of(value: &Value) -> &str {
    value.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// Puts the namespace into a document whose kind has one and which does not say which.
fn fill_in(value: &mut Value, namespace: Option<&str>) {
    let namespaced = Key::of(value).is_ok_and(|key| key.kind.is_namespaced());
    if let (true, Some(Value::Object(metadata))) = (namespaced, value.get_mut("metadata")) {
        let place = metadata.entry("namespace").or_insert(Value::Null);
        if place.is_null() || place == "" {
            *place = Value::from(namespace.unwrap_or("default"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str =
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: p1 }\nspec: { cidr: 10.65.0.0/16 }\n";
    const ENDPOINT: &str = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: { name: a }\n\
                            spec: { node: n, interfaceName: tap1, ipNetworks: [10.65.0.2/32] }\n";

    fn checked(texts: &[&str], namespace: Option<&str>) -> (Vec<Document>, Vec<String>) {
        let texts: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(number, text)| Text { origin: format!("f{number}.yaml"), text: (*text).to_owned() })
            .collect();
        let Checked { documents, mistakes, .. } = check(&texts, namespace, Purpose::Use);
        (documents, mistakes)
    }

    #[test]
    fn a_namespace_is_filled_in() {
        for (namespace, expected) in [(None, "default"), (Some("blue"), "blue")] {
            let (documents, mistakes) = checked(&[ENDPOINT], namespace);
            assert_eq!(mistakes, Vec::<String>::new());
            assert_eq!(documents[0].key.namespace.as_deref(), Some(expected));
            assert_eq!(documents[0].value["metadata"]["namespace"], expected);
        }
        let (documents, mistakes) = checked(&[POOL], Some("blue"));
        assert_eq!((documents[0].key.namespace.as_deref(), mistakes.len()), (None, 0));
        let other = ENDPOINT.replace("name: a", "name: a, namespace: red");
        let (_, mistakes) = checked(&[&other], Some("blue"));
        assert!(
            mistakes[0].starts_with("f0.yaml:3: ") && mistakes[0].contains("--namespace says 'blue'"),
            "{mistakes:?}"
        );
    }

    #[test]
    fn every_mistake_names_file_document_and_field() {
        let wrong = POOL.replace("cidr: 10.65.0.0/16", "cdir: 10.65.0.0/16");
        let both = format!("{POOL}---\n{wrong}");
        let (documents, mistakes) = checked(&[&both, "kind: [", POOL, "just text"], None);
        assert_eq!(documents.len(), 1);
        assert!(mistakes[0].starts_with("f0.yaml:9: ") && mistakes[0].contains("cdir"), "{mistakes:#?}");
        let others = mistakes[1..].iter().filter(|mistake| !mistake.starts_with("f0")).collect::<Vec<_>>();
        assert!(others[0].starts_with("f1.yaml:1: is not valid YAML: "), "{mistakes:#?}");
        assert!(others[1].starts_with("f2.yaml:1: ") && others[1].contains("is already at f0.yaml:1"), "{mistakes:#?}");
        assert!(others[2].starts_with("f3.yaml:1: "), "{mistakes:#?}");
        assert!(mistakes.iter().all(|mistake| !mistake.contains('\n')), "{mistakes:?}");
    }
}
