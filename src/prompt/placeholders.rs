//! One placeholder of the template to one id for each visual token (docs/spec.md, section 5.1).

use super::PromptError;
use crate::units::{TokenId, Tokens};

/// Repeats each `placeholder` of `ids` as often as the medium that it stands for has tokens.
///
/// Bound by position: the first placeholder is the first medium's.
///
/// # Errors
/// [`PromptError::Placeholders`] unless there are as many placeholders as media.
pub(super) fn expand(
    ids: &[TokenId],
    (placeholder, name): (TokenId, &'static str),
    counts: &[Tokens],
) -> Result<Vec<TokenId>, PromptError> {
    let placeholders = ids.iter().filter(|id| **id == placeholder).count();
    if placeholders != counts.len() {
        return Err(PromptError::Placeholders { token: name, placeholders, media: counts.len() });
    }
    let mut counts = counts.iter();
    let mut expanded = Vec::with_capacity(ids.len());
    for id in ids {
        let copies = match counts.as_slice() {
            [count, ..] if *id == placeholder => {
                counts.next();
                count.0
            }
            _ => 1,
        };
        expanded.extend(std::iter::repeat_n(*id, copies));
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAD: (TokenId, &str) = (TokenId(9), "<|image_pad|>");

    #[test]
    fn placeholders_are_bound_in_order() {
        let ids = [1, 9, 2, 9].map(TokenId);
        let expanded = expand(&ids, PAD, &[Tokens(3), Tokens(1)]).unwrap();
        assert_eq!(expanded, [1, 9, 9, 9, 2, 9].map(TokenId));
    }

    #[test]
    fn another_number_of_placeholders_is_refused() {
        for counts in [&[][..], &[Tokens(1), Tokens(1)]] {
            let error = expand(&[TokenId(9)], PAD, counts).unwrap_err().to_string();
            assert!(error.contains(&format!("1 placeholder(s) <|image_pad|>, {}", counts.len())));
        }
    }
}
