//! Sizes and resizes.

use proptest::prelude::*;
use qwen2vl::media::{
    Limits, PixelBudget, Preprocessor, Resizer, Rgb8, Size, decode, smart_resize,
};

proptest! {
    #[test]
    fn a_resized_picture_stays_within_the_budget_and_keeps_its_shape(
        height in 1_usize..4000, width in 1_usize..4000, factor in 1_usize..64,
        min in 1_u64..200_000, more in 0_u64..2_000_000,
    ) {
        let (size, budget) = (Size { height, width }, PixelBudget { min, max: min + more });
        let ratio = height.max(width) as f64 / height.min(width) as f64;
        let resized = smart_resize(size, factor, budget);
        prop_assert_eq!(resized.is_err(), ratio > 200.0);
        let Ok(resized) = resized else { return Ok(()) };
        prop_assert!(resized.height > 0 && resized.height.is_multiple_of(factor));
        prop_assert!(resized.width > 0 && resized.width.is_multiple_of(factor));
        let pixels = resized.pixels().unwrap() as u64;
        let one_unit = resized.height == factor || resized.width == factor;
        // Rounding up from below may pass a narrow budget; a side of one unit cannot shrink.
        let grown = pixels > budget.max && (height * width) as u64 <= budget.max;
        prop_assert!(pixels <= budget.max || one_unit || grown, "{resized} of {size}");
        prop_assert!(pixels >= budget.min || (height * width) as u64 >= budget.min, "{resized}");
    }

    #[test]
    fn a_picture_of_one_colour_keeps_it(
        height in 1_usize..80, width in 1_usize..80, color in any::<[u8; 3]>(), which in 0_usize..3,
    ) {
        let picture = Rgb8::new(Size { height, width }, color.repeat(height * width)).unwrap();
        let rule = [Resizer::Torchvision, Resizer::Pillow, Resizer::Pillow13][which];
        let done = Preprocessor::default().with_resizer(rule).image(&picture).unwrap();
        let size = done.frames.size();
        for (plane, color) in done.frames.data().chunks(done.frames.plane_bytes()).zip(color) {
            for row in plane.chunks(done.frames.row_pitch()) {
                // Weights are rounded to fixed point: they may miss one by a little.
                prop_assert!(row[..size.width].iter().all(|v| v.abs_diff(color) <= 1));
            }
        }
    }

    #[test]
    fn bytes_are_a_picture_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), start in 0_usize..6) {
        let signatures: [&[u8]; 6] =
            [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF0000WEBP"];
        let bytes = [signatures[start], &bytes].concat();
        let limits = Limits { pixels: 1 << 16, ..Limits::default() };
        if let Ok(picture) = decode(&bytes, &limits) {
            prop_assert!(picture.size().pixels().unwrap() <= 1 << 16);
        }
    }
}
