//! Every environment variable of the product, and its parsing.

use std::env;

/// `QWEN2VL_DEVICE`: the device used when no flag names one.
pub const DEVICE: &str = "QWEN2VL_DEVICE";
/// `QWEN2VL_MODEL`: the checkpoint used when no argument names one.
pub const MODEL: &str = "QWEN2VL_MODEL";

/// `QWEN2VL_FFMPEG`: the program that reads video containers, instead of `ffmpeg`.
pub const FFMPEG: &str = "QWEN2VL_FFMPEG";

/// A variable that is set and not empty.
pub fn text(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let value = env::var(name).ok();
    value.filter(|text| !text.is_empty())
}
