//! The chat templates of a checkpoint: one, or several by name (docs/spec.md, section 5.2).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::processor::{MAX_FILE, object, read_limited, settings, token_text};
use super::{ChatTemplate, PromptError};

/// Special tokens that templates know as variables.
const SPECIALS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];
/// The one that is used unless another is asked for.
const DEFAULT: &str = "default";

/// What a checkpoint has, and what is used of it.
#[derive(Debug)]
pub(super) struct Templates {
    folder: PathBuf,
    specials: Map<String, Value>,
    /// Sources by name.
    named: Vec<(String, String)>,
    chosen: Option<ChatTemplate>,
}

impl Templates {
    /// Reads chat_template.jinja, else chat_template.json, else tokenizer_config.json.
    pub(super) fn from_dir(
        folder: &Path,
        settings: &Map<String, Value>,
    ) -> Result<Self, PromptError> {
        let specials = SPECIALS.into_iter().filter_map(|name| {
            Some((name.to_owned(), Value::String(settings.get(name).and_then(token_text)?)))
        });
        let (folder, specials) = (folder.to_owned(), specials.collect());
        let named = sources(&folder, settings)?;
        let mut this = Self { folder, specials, named, chosen: None };
        if let Some(source) = this.source(DEFAULT) {
            this.chosen = Some(ChatTemplate::new(source, this.specials.clone())?);
        }
        Ok(this)
    }

    /// The template in use.
    pub(super) fn chosen(&self) -> Result<&ChatTemplate, PromptError> {
        self.chosen.as_ref().ok_or_else(|| PromptError::NoTemplate { folder: self.folder.clone() })
    }

    /// Takes the template of that name, or `template` as the source of one.
    pub(super) fn choose(&mut self, template: &str) -> Result<(), PromptError> {
        let source = match self.source(template) {
            Some(source) => source,
            // A prompt without anything in it would be the same for each conversation.
            None if !template.contains("{{") && !template.contains("{%") => {
                let known = self.named.iter().map(|(name, _)| name.clone()).collect();
                let name = template.chars().take(60).collect();
                return Err(PromptError::NoNamedTemplate { name, known });
            }
            None => template.to_owned(),
        };
        self.chosen = Some(ChatTemplate::new(source, self.specials.clone())?);
        Ok(())
    }

    fn source(&self, name: &str) -> Option<String> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, source)| source.clone())
    }
}

impl ChatTemplate {
    /// The chat template of a checkpoint folder.
    ///
    /// # Errors
    /// [`PromptError::NoTemplate`], [`PromptError::Template`], and what can be wrong with the files.
    pub fn from_dir(folder: &Path) -> Result<Self, PromptError> {
        let templates = Templates::from_dir(folder, &settings(folder)?)?;
        templates.chosen.ok_or(PromptError::NoTemplate { folder: templates.folder })
    }
}

/// Sources by name; of a file that holds one template alone its name is `default`.
fn sources(
    folder: &Path,
    settings: &Map<String, Value>,
) -> Result<Vec<(String, String)>, PromptError> {
    let (jinja, json) = (folder.join("chat_template.jinja"), folder.join("chat_template.json"));
    if jinja.exists() {
        let source = String::from_utf8_lossy(&read_limited(&jinja, MAX_FILE)?).into_owned();
        return Ok(vec![(DEFAULT.to_owned(), source)]);
    }
    let found = match json.exists() {
        true => object(&json)?.get("chat_template").cloned(),
        false => settings.get("chat_template").cloned(),
    };
    let pair = |name: &Value, source: &Value| {
        Some((name.as_str()?.to_owned(), source.as_str()?.to_owned()))
    };
    Ok(match found {
        Some(Value::String(source)) => vec![(DEFAULT.to_owned(), source)],
        Some(Value::Array(list)) => {
            list.iter().filter_map(|one| pair(one.get("name")?, one.get("template")?)).collect()
        }
        Some(Value::Object(map)) => {
            map.iter().filter_map(|(name, source)| pair(&name.as_str().into(), source)).collect()
        }
        _ => Vec::new(),
    })
}
