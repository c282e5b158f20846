//! Exact values of floats as big integers, and one rounding to any format: the model of
//! arithmetic and conversions.

/// 2^-1140 is the unit: f64 products of subnormals are not needed, sums and f32 products are.
const UNIT: i32 = -1140;
/// Words of a magnitude.
const WORDS: usize = 36;

/// An exact number: sign and magnitude in units of 2^-1140. Zero keeps its sign.
#[derive(Clone)]
pub(crate) struct Exact {
    pub(crate) negative: bool,
    words: [u64; WORDS],
}

/// A binary format: exponent bits, stored mantissa bits.
#[derive(Clone, Copy)]
pub(crate) struct Format(pub(crate) u32, pub(crate) u32);

pub(crate) const F64: Format = Format(11, 52);
pub(crate) const F32: Format = Format(8, 23);
pub(crate) const F16: Format = Format(5, 10);
pub(crate) const BF16: Format = Format(8, 7);

/// What the bits of a format mean.
pub(crate) enum Value {
    Nan,
    Infinite(bool),
    Finite(Exact),
}

/// Directions: `rn rz rm rp`.
pub(crate) const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];

impl Format {
    pub(crate) fn decode(self, bits: u64) -> Value {
        let Format(exponent_bits, mantissa_bits) = self;
        let negative = bits >> (exponent_bits + mantissa_bits) & 1 == 1;
        let field = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
        let fraction = bits & ((1 << mantissa_bits) - 1);
        let bias = (1i32 << (exponent_bits - 1)) - 1;
        if field == (1 << exponent_bits) - 1 {
            return if fraction == 0 { Value::Infinite(negative) } else { Value::Nan };
        }
        let mantissa = if field == 0 { fraction } else { fraction | 1 << mantissa_bits };
        let place = (field as i32).max(1) - bias - mantissa_bits as i32;
        Value::Finite(Exact::new(negative, mantissa, place))
    }

    pub(crate) fn infinity(self, negative: bool) -> u64 {
        let Format(exponent_bits, mantissa_bits) = self;
        let magnitude = ((1u64 << exponent_bits) - 1) << mantissa_bits;
        magnitude | u64::from(negative) << (exponent_bits + mantissa_bits)
    }

    pub(crate) fn nan(self) -> u64 {
        (1 << (self.0 + self.1)) - 1
    }

    /// Rounds in the direction `mode`: finds the two neighbours by dropping bits one by one.
    pub(crate) fn round(self, x: &Exact, mode: &str) -> u64 {
        let Format(exponent_bits, mantissa_bits) = self;
        let bias = (1i32 << (exponent_bits - 1)) - 1;
        let sign = u64::from(x.negative) << (exponent_bits + mantissa_bits);
        let Some(top) = x.top() else { return sign };
        // Bit `low` of the magnitude is the last place of the result.
        let smallest = 1 - bias - mantissa_bits as i32 - UNIT;
        let low = (top as i32 - mantissa_bits as i32).max(smallest);
        let kept = x.bits_from(low);
        let half = low > 0 && x.bit(low - 1);
        let more = low > 1 && (0..low - 1).any(|i| x.bit(i));
        let up = match mode {
            "rn" => half && (more || kept & 1 == 1),
            "rm" => x.negative && (half || more),
            "rp" => !x.negative && (half || more),
            _ => false,
        };
        let kept = kept + u64::from(up);
        let field = (low - smallest) as u64;
        let magnitude =
            if kept >> mantissa_bits == 0 { kept } else { (field << mantissa_bits) + kept };
        let infinity = self.infinity(false);
        if magnitude < infinity {
            return sign | magnitude;
        }
        let to_infinity = match mode {
            "rn" => true,
            "rm" => x.negative,
            "rp" => !x.negative,
            _ => false,
        };
        sign | if to_infinity { infinity } else { infinity - 1 }
    }
}

impl Exact {
    /// `mantissa · 2^place`.
    pub(crate) fn new(negative: bool, mantissa: u64, place: i32) -> Self {
        let mut words = [0; WORDS];
        let shift = (place - UNIT) as usize;
        let wide = u128::from(mantissa) << (shift % 64);
        words[shift / 64] = wide as u64;
        words[shift / 64 + 1] = (wide >> 64) as u64;
        Exact { negative, words }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    fn bit(&self, i: i32) -> bool {
        self.words[i as usize / 64] >> (i % 64) & 1 == 1
    }

    fn top(&self) -> Option<usize> {
        let word = self.words.iter().rposition(|w| *w != 0)?;
        Some(64 * word + 63 - self.words[word].leading_zeros() as usize)
    }

    /// The bits from `low` on.
    fn bits_from(&self, low: i32) -> u64 {
        let end = self.top().map_or(0, |t| t as i32);
        (low..=end).rev().fold(0, |v, i| v << 1 | u64::from(self.bit(i)))
    }

    fn compare(&self, other: &Exact) -> std::cmp::Ordering {
        self.words.iter().rev().cmp(other.words.iter().rev())
    }

    /// A sum of two; `mode` gives the sign of an exact zero.
    pub(crate) fn add(&self, other: &Exact, mode: &str) -> Exact {
        if self.negative == other.negative {
            let mut words = [0; WORDS];
            let mut carry = 0;
            for i in 0..WORDS {
                let sum = u128::from(self.words[i]) + u128::from(other.words[i]) + carry;
                words[i] = sum as u64;
                carry = sum >> 64;
            }
            return Exact { negative: self.negative, words };
        }
        let (large, small) = match self.compare(other) {
            std::cmp::Ordering::Less => (other, self),
            std::cmp::Ordering::Greater => (self, other),
            std::cmp::Ordering::Equal => {
                return Exact { negative: mode == "rm", words: [0; WORDS] };
            }
        };
        let mut words = [0; WORDS];
        let mut borrow = 0;
        for i in 0..WORDS {
            let (d, b1) = large.words[i].overflowing_sub(small.words[i]);
            let (d, b2) = d.overflowing_sub(borrow);
            words[i] = d;
            borrow = u64::from(b1 || b2);
        }
        Exact { negative: large.negative, words }
    }

    /// A product of two values of at most 64 bits each. Their places must not underflow the unit.
    pub(crate) fn mul(&self, other: &Exact) -> Exact {
        let negative = self.negative != other.negative;
        let (Some(a), Some(b)) = (self.compact(), other.compact()) else {
            return Exact { negative, words: [0; WORDS] };
        };
        let product = u128::from(a.0) * u128::from(b.0);
        let low = Exact::new(negative, product as u64, a.1 + b.1);
        low.add(&Exact::new(negative, (product >> 64) as u64, a.1 + b.1 + 64), "rn")
    }

    /// An odd mantissa and its place.
    fn compact(&self) -> Option<(u64, i32)> {
        let word = self.words.iter().position(|w| *w != 0)?;
        let low = 64 * word as i32 + self.words[word].trailing_zeros() as i32;
        Some((self.bits_from(low), low + UNIT))
    }
}

/// `a·b + c` in a format, or NaN; `None` for `c` leaves the sum out.
pub(crate) fn fma(format: Format, a: u64, b: u64, c: Option<u64>, mode: &str) -> u64 {
    use Value::{Finite, Infinite, Nan};
    let addend = c.map(|c| format.decode(c));
    let negative = |v: &Value| matches!(v, Infinite(true)) || matches!(v, Finite(x) if x.negative);
    let (x, y) = (format.decode(a), format.decode(b));
    let sign = negative(&x) != negative(&y);
    let product = match (&x, &y) {
        (Nan, _) | (_, Nan) => return format.nan(),
        (Infinite(_), Finite(z)) | (Finite(z), Infinite(_)) if z.is_zero() => return format.nan(),
        (Infinite(_), _) | (_, Infinite(_)) => None,
        (Finite(x), Finite(y)) => Some(x.mul(y)),
    };
    match (product, addend) {
        (_, Some(Nan)) => format.nan(),
        (None, Some(Infinite(c))) if c != sign => format.nan(),
        (None, _) => format.infinity(sign),
        (Some(_), Some(Infinite(c))) => format.infinity(c),
        (Some(p), Some(Finite(c))) => format.round(&p.add(&c, mode), mode),
        (Some(p), None) => format.round(&p, mode),
    }
}

/// `a + b` in a format.
pub(crate) fn add(format: Format, a: u64, b: u64, mode: &str) -> u64 {
    use Value::{Finite, Infinite, Nan};
    match (format.decode(a), format.decode(b)) {
        (Nan, _) | (_, Nan) => format.nan(),
        (Infinite(a), Infinite(b)) if a != b => format.nan(),
        (Infinite(a), _) | (_, Infinite(a)) => format.infinity(a),
        (Finite(a), Finite(b)) => format.round(&a.add(&b, mode), mode),
    }
}

/// A value of one format in another.
pub(crate) fn convert(from: Format, to: Format, bits: u64, mode: &str) -> u64 {
    match from.decode(bits) {
        Value::Nan => to.nan(),
        Value::Infinite(negative) => to.infinity(negative),
        Value::Finite(x) => to.round(&x, mode),
    }
}
