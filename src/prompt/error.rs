//! What can be wrong with a conversation, a template or a tokenizer.

use std::fmt;
use std::path::PathBuf;

use crate::media::MediaError;
use crate::model::config::ConfigError;
use crate::units::TokenId;

/// A place in a request: conversation, message and part, each counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// Conversation of a batch.
    pub conversation: usize,
    /// Message of the conversation.
    pub message: usize,
    /// Part of the message; none for content that is one string.
    pub part: Option<usize>,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.conversation > 0 {
            write!(f, "conversation {}, ", self.conversation)?;
        }
        write!(f, "message {}", self.message)?;
        self.part.map_or(Ok(()), |part| write!(f, ", part {part}"))
    }
}

/// Why a prompt cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// A file that cannot be read.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// config.json is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// preprocessor_config.json is refused.
    #[error("{} is refused", file.display())]
    Preprocessor {
        /// The file.
        file: PathBuf,
        /// Which key, and why.
        #[source]
        source: MediaError,
    },
    /// The picture processor and the vision tower disagree about the shape of a patch.
    #[error(
        "preprocessor_config.json has {key} = {processor}, the vision_config of config.json \
         {vision}"
    )]
    Patch {
        /// Key of preprocessor_config.json.
        key: &'static str,
        /// Its value there.
        processor: usize,
        /// The value of the vision tower.
        vision: usize,
    },
    /// A tokenizer file that cannot be understood.
    #[error("{} is no tokenizer: {problem}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Text that the tokenizer cannot encode.
    #[error("cannot tokenize the prompt: {problem}")]
    Encode {
        /// What the tokenizer says.
        problem: String,
    },
    /// A setting of the tokenizer that would change ids or text and is not built.
    #[error("unsupported: {} has {what}", file.display())]
    UnsupportedTokenizer {
        /// The file.
        file: PathBuf,
        /// The setting and its value.
        what: String,
    },
    /// A token whose id in config.json is not the tokenizer's.
    #[error("config.json has {key} = {config}, but the tokenizer has {}", known(*tokenizer, token))]
    TokenId {
        /// Key of config.json.
        key: &'static str,
        /// The token's text.
        token: &'static str,
        /// Its id there.
        config: TokenId,
        /// Its id in the tokenizer.
        tokenizer: Option<TokenId>,
    },
    /// A folder without a chat template.
    #[error(
        "no chat template in {}: chat_template.jinja, chat_template.json and \
         tokenizer_config.json have none",
        folder.display()
    )]
    NoTemplate {
        /// The checkpoint.
        folder: PathBuf,
    },
    /// A template that does not compile or run.
    #[error("the chat template fails")]
    Template {
        /// Which construct, on which line.
        #[source]
        source: minijinja::Error,
    },
    /// A template whose output depends on the text in another way than by inserting it.
    #[error(
        "the chat template changes the text of messages, so what comes from a user cannot be told \
         from the template's own: --control-text trusted renders it as the reference does"
    )]
    TemplateChangesText,
    /// A template that leaves out a text of a message, or inserts it more than once.
    #[error(
        "{spot}: the chat template inserts this text {times} times, not once: --control-text \
         trusted renders it as the reference does"
    )]
    TemplateText {
        /// Where.
        spot: Spot,
        /// How often the text is in the prompt.
        times: usize,
    },
    /// A prompt that is to end with an open answer and within the last message.
    #[error("continue_final_message and add_generation_prompt exclude one another: give one")]
    ContinueAndAnswer,
    /// A last message without text, or whose text the template leaves out.
    #[error("{spot}: continue_final_message finds no text of the last message in the prompt")]
    NothingToContinue {
        /// The last message.
        spot: Spot,
    },
    /// A name that is no chat template of the checkpoint, and no template either.
    #[error("no chat template is named {name:?}{}", listed(known))]
    NoNamedTemplate {
        /// As asked for, shortened.
        name: String,
        /// Those that the checkpoint has.
        known: Vec<String>,
    },
    /// JSON that is no conversation.
    #[error("the conversation is not valid JSON")]
    Json {
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// JSON of another shape than a conversation.
    #[error("{spot}: {problem}")]
    Message {
        /// Where.
        spot: Spot,
        /// What is wrong.
        problem: &'static str,
    },
    /// A call of the processor without a text.
    #[error("text is required")]
    NoText,
    /// A request without messages.
    #[error("the conversation has no messages")]
    Empty,
    /// A role that neither the reference's conversations nor the template know.
    #[error(
        "{spot}: unknown role {role:?}: use system, user, assistant or tool; --control-text trusted \
         takes any, as the reference does"
    )]
    UnknownRole {
        /// Where.
        spot: Spot,
        /// As written, shortened.
        role: String,
    },
    /// A part of no documented type, of which a template would show nothing.
    #[error(
        "{spot}: unknown part type {found}{}; known are text, image, image_url and video",
        nearest(*near)
    )]
    UnknownPart {
        /// Where.
        spot: Spot,
        /// Its type as written, shortened.
        found: String,
        /// The known type nearest to it.
        near: Option<&'static str>,
    },
    /// A key that a media part does not have.
    #[error("{spot}: unknown key {key:?} in a media part{}", nearest(*near))]
    UnknownKey {
        /// Where.
        spot: Spot,
        /// As written.
        key: String,
        /// The known key nearest to it.
        near: Option<&'static str>,
    },
    /// A value that a key of a media part cannot have.
    #[error("{spot}: {key} is {found}, expected {expected}")]
    Value {
        /// Where.
        spot: Spot,
        /// The key.
        key: &'static str,
        /// As written, shortened.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Something of a request that is not built.
    #[error("{spot}: unsupported: {what}")]
    Unsupported {
        /// Where.
        spot: Spot,
        /// What, and what to do instead.
        what: &'static str,
    },
    /// A picture that cannot be used.
    #[error("{spot}")]
    Media {
        /// Where.
        spot: Spot,
        /// Why.
        #[source]
        source: MediaError,
    },
    /// Control tokens in text, where the policy refuses them.
    #[error("{spot}: control token {token} at byte {offset} of the text")]
    ControlToken {
        /// Where.
        spot: Spot,
        /// The token.
        token: String,
        /// Its place in the text.
        offset: usize,
    },
    /// A control token in a part of a message that the template may insert as it is.
    #[error("{spot}: {key} contains the control token {token}")]
    ControlTokenInField {
        /// Where.
        spot: Spot,
        /// The key.
        key: String,
        /// The token.
        token: String,
    },
    /// Another number of placeholders than of media.
    #[error(
        "the prompt has {placeholders} placeholder(s) {token}, {media} given: the template must \
         emit one for each, and with --control-text trusted the text must hold none"
    )]
    Placeholders {
        /// The placeholder.
        token: &'static str,
        /// In the rendered prompt.
        placeholders: usize,
        /// In the messages.
        media: usize,
    },
    /// Rows of several lengths, and nothing to pad them with.
    #[error("the tokenizer has no pad token: process the conversations one at a time")]
    NoPadToken,
    /// A grid that does not fall into merged patches, or whose tokens cannot be counted.
    #[error("{spot}: a grid of {grid} patches has no whole number of merged patches of {merge}")]
    Grid {
        /// Where.
        spot: Spot,
        /// In patches.
        grid: crate::units::GridThw,
        /// Patches along a side of a merged one.
        merge: usize,
    },
    /// More than a limit allows.
    #[error("{limit}: {got} is over the limit of {max}")]
    Limit {
        /// Name of the limit.
        limit: &'static str,
        /// What was asked for.
        got: usize,
        /// The limit.
        max: usize,
    },
}

impl PromptError {
    /// Stable name of the kind of error (README, "Errors").
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Config(error) => error.code(),
            Self::Preprocessor { source, .. } | Self::Media { source, .. } => source.code(),
            Self::Patch { .. } | Self::TokenId { .. } => "checkpoint_invalid",
            Self::Tokenizer { .. } | Self::Encode { .. } => "tokenizer_invalid",
            Self::UnsupportedTokenizer { .. } | Self::Unsupported { .. } => "unsupported",
            Self::NoPadToken => "tokenizer_invalid",
            Self::NoTemplate { .. }
            | Self::Template { .. }
            | Self::TemplateChangesText
            | Self::TemplateText { .. } => "template_invalid",
            Self::Json { .. } | Self::UnknownKey { .. } | Self::Value { .. } => "invalid_request",
            Self::ContinueAndAnswer | Self::NothingToContinue { .. } => "invalid_request",
            Self::NoNamedTemplate { .. } => "invalid_request",
            Self::UnknownRole { .. } | Self::UnknownPart { .. } => "invalid_request",
            Self::Message { .. } | Self::Empty | Self::NoText => "invalid_request",
            Self::ControlToken { .. } | Self::ControlTokenInField { .. } => "control_token",
            Self::Placeholders { .. } | Self::Grid { .. } => "prompt_invalid",
            Self::Limit { .. } => "limit_exceeded",
        }
    }
}

fn known(id: Option<TokenId>, token: &str) -> String {
    id.map_or_else(|| format!("no token {token}"), |id| format!("{id} for {token}"))
}

fn nearest(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!(", did you mean {near:?}?"))
}

fn listed(known: &[String]) -> String {
    match known {
        [] => String::new(),
        names => format!("; there are {}", names.join(", ")),
    }
}
