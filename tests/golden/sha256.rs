//! SHA-256 (FIPS 180-4), for goldens that hold digests of pixels.

const ROUNDS: usize = 64;

/// The digest as lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let constants = constants();
    let mut state = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19_u32,
    ];
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((bytes.len() as u64 * 8).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        let mut words = [0_u32; ROUNDS];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        for i in 16..ROUNDS {
            let (a, b) = (words[i - 15], words[i - 2]);
            let low = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let high = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            let sum = words[i - 16].wrapping_add(low).wrapping_add(words[i - 7]);
            words[i] = sum.wrapping_add(high);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for (word, constant) in words.iter().zip(&constants) {
            let choice = (e & f) ^ (!e & g);
            let high = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let first = h.wrapping_add(high).wrapping_add(choice);
            let first = first.wrapping_add(*constant).wrapping_add(*word);
            let majority = (a & b) ^ (a & c) ^ (b & c);
            let low = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(low.wrapping_add(majority)));
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *sum = sum.wrapping_add(value);
        }
    }
    state.iter().map(|word| format!("{word:08x}")).collect()
}

/// First 32 bits of the fractional parts of the cube roots of the first primes.
fn constants() -> [u32; ROUNDS] {
    let mut primes = (2_u32..).filter(|n| (2..*n).all(|d| !n.is_multiple_of(d)));
    std::array::from_fn(|_| {
        let prime = u128::from(primes.next().unwrap());
        // floor(cbrt(prime) * 2^32) by bisection; its low half is the fraction.
        let target = prime << 96;
        let (mut low, mut high) = (0_u128, 1 << 36);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if middle * middle * middle <= target { low = middle } else { high = middle }
        }
        u32::try_from(low & u128::from(u32::MAX)).unwrap()
    })
}

#[test]
fn known_digests() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(sha256(b""), empty);
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(b"abc"), abc);
}
