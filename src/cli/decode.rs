//! `qwen2vl decode`: token ids to text. Of the checkpoint only the tokenizer is read.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::error::exit;
use super::{CliError, ModelArgs, Output};
use crate::prompt::{DecodeOptions, Tokenizer};
use crate::units::TokenId;

/// Bytes of a file of ids.
const MAX_IDS: u64 = 256 << 20;

/// Arguments of `decode`.
#[derive(Debug, Args)]
pub(crate) struct DecodeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids
    #[arg(value_name = "ID", required_unless_present = "ids", conflicts_with = "ids")]
    list: Vec<u32>,
    /// Ids as JSON ("-": standard input): a list, a list of lists, or what `generate --json` prints
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Leave out control tokens
    #[arg(long)]
    skip_special_tokens: bool,
    /// Take blanks before punctuation away; without it as tokenizer_config.json says
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    clean_up_tokenization_spaces: Option<bool>,
}

/// Prints a line for each sequence, or one JSON document.
pub(crate) fn run(arguments: &DecodeArgs, out: &mut Output) -> Result<u8, CliError> {
    let (rows, batch) = match &arguments.ids {
        Some(file) => rows(file)?,
        None => (vec![arguments.list.iter().copied().map(TokenId).collect()], false),
    };
    let tokenizer = Tokenizer::from_dir(&arguments.model.model)?;
    let options = DecodeOptions {
        skip_special_tokens: arguments.skip_special_tokens,
        clean_up_tokenization_spaces: arguments.clean_up_tokenization_spaces,
    };
    let texts: Vec<String> = rows.iter().map(|row| tokenizer.decode_with(row, options)).collect();
    if out.is_json() {
        let mut document = match (batch, texts.as_slice()) {
            (false, [text]) => json!({ "text": text }),
            _ => json!({ "texts": texts }),
        };
        document["schema"] = "qwen2vl.decode/1".into();
        out.document(&document)?;
        return Ok(exit::DONE);
    }
    for text in texts {
        out.piece(&text)?;
        out.line("")?;
    }
    Ok(exit::DONE)
}

/// The sequences of a file, and whether it holds a list of them.
fn rows(file: &Path) -> Result<(Vec<Vec<TokenId>>, bool), CliError> {
    let mut bytes = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => stdin().take(MAX_IDS + 1).read_to_end(&mut bytes),
        false => File::open(file).and_then(|open| open.take(MAX_IDS + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|error| CliError::io(file, &error))?;
    if bytes.len() as u64 > MAX_IDS {
        let what = format!("{}: more than {MAX_IDS} bytes of ids", file.display());
        return Err(CliError::new("limit_exceeded", exit::INPUT, what));
    }
    let wrong = |what: &str| CliError::usage(format!("{}: {what}", file.display()));
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| wrong(&format!("not JSON: {error}")))?;
    let problem = "token ids are whole numbers below 2^32: a list of them, or a list of such lists";
    let found = match &value {
        Value::Array(list) if list.iter().all(|item| !item.is_number()) && !list.is_empty() => {
            list.iter().map(row).collect::<Option<Vec<_>>>().map(|rows| (rows, true))
        }
        value => row(value).map(|row| (vec![row], false)),
    };
    found.ok_or_else(|| wrong(problem))
}

/// One sequence: a list of ids, or an object that holds it.
fn row(value: &Value) -> Option<Vec<TokenId>> {
    let list = value.get("token_ids").unwrap_or(value).as_array()?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).map(TokenId);
    list.iter().map(id).collect()
}
