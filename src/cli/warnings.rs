//! What a user may not have meant, with stable codes: about pictures, about control tokens.

use serde_json::{Value, json};

use super::Output;
use crate::prompt::MediaUse;

/// One warning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    code: &'static str,
    text: String,
}

/// Warnings about the media and the texts of one prompt.
pub(crate) fn of<'a>(
    media: impl IntoIterator<Item = &'a MediaUse>,
    escaped: usize,
) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = media.into_iter().flat_map(of_medium).collect();
    if escaped > 0 {
        let text = format!(
            "{escaped} control token(s) in messages are taken as text; --control-text trusted \
             makes them active"
        );
        warnings.push(Warning { code: "control_text_escaped", text });
    }
    warnings
}

/// Prints them on standard error.
pub(crate) fn print(warnings: &[Warning], out: &mut Output) {
    for warning in warnings {
        out.warn(warning.code, &warning.text);
    }
}

/// As results report them.
pub(crate) fn document(warnings: &[Warning]) -> Value {
    warnings.iter().map(|warning| json!({ "code": warning.code, "text": warning.text })).collect()
}

fn of_medium(item: &MediaUse) -> Vec<Warning> {
    /// Pixels of a picture that is large.
    const LARGE: usize = 1_000_000;
    /// Visual tokens of one that is seen in little detail.
    const FEW: usize = 256;
    let area = |size: crate::media::Size| size.pixels().unwrap_or(usize::MAX);
    let (decoded, resized) = (area(item.decoded), area(item.resized));
    let sizes = format!(
        "{}: {}x{} pixels become {}x{}",
        item.source,
        item.decoded.width,
        item.decoded.height,
        item.resized.width,
        item.resized.height
    );
    let mut found = Vec::new();
    let mut warn = |code, text| found.push(Warning { code, text });
    if resized < decoded / 4 {
        warn("downscaled", format!("{sizes}; a larger --max-pixels keeps more"));
    } else if resized / 4 > decoded {
        warn("upscaled", format!("{sizes}; a smaller --min-pixels costs fewer tokens"));
    }
    if decoded > LARGE && item.tokens.0 < FEW {
        let tokens = item.tokens;
        warn("low_detail", format!("{}: {tokens} visual tokens for a large picture", item.source));
    }
    if item.turned {
        let what = "is turned as its EXIF says; --exif ignore leaves it";
        warn("exif_rotated", format!("{} {what}", item.source));
    }
    if item.alpha_dropped {
        let what = "loses its transparency; --alpha white lays it on white";
        warn("alpha_dropped", format!("{} {what}", item.source));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media::{PixelBudget, Size},
        prompt::MediaKind,
        units::{GridThw, Tokens},
    };

    /// (decoded, resized, tokens, turned, transparent, codes)
    type Row = ([usize; 2], [usize; 2], usize, bool, bool, &'static [&'static str]);
    const CASES: &[Row] = &[
        ([100, 100], [112, 112], 16, false, false, &[]),
        ([200, 200], [100, 100], 16, false, false, &[]),
        ([200, 202], [100, 100], 16, false, false, &["downscaled"]),
        ([50, 50], [100, 100], 16, false, false, &[]),
        ([50, 49], [100, 100], 16, false, false, &["upscaled"]),
        ([1000, 1000], [504, 504], 255, false, false, &[]),
        ([1000, 1001], [504, 504], 256, false, false, &[]),
        ([1000, 1001], [504, 504], 255, false, false, &["low_detail"]),
        (
            [4000, 4000],
            [56, 56],
            4,
            true,
            true,
            &["downscaled", "low_detail", "exif_rotated", "alpha_dropped"],
        ),
    ];

    #[test]
    fn each_warning_has_its_bound() {
        for (decoded, resized, tokens, turned, alpha_dropped, codes) in CASES {
            let size = |[height, width]: [usize; 2]| Size { height, width };
            let item = MediaUse {
                kind: MediaKind::Image,
                source: "a.png".into(),
                budget: PixelBudget { min: 1, max: 2 },
                frames: None,
                decoded: size(*decoded),
                resized: size(*resized),
                grid: GridThw { t: 1, h: 2, w: 2 },
                tokens: Tokens(*tokens),
                turned: *turned,
                alpha_dropped: *alpha_dropped,
            };
            let found = of(&[item], 0);
            let found: Vec<_> = found.iter().map(|warning| warning.code).collect();
            assert_eq!(found, *codes, "{decoded:?} {resized:?} {tokens}");
        }
        assert_eq!(of(&[], 2)[0].code, "control_text_escaped");
    }
}
