//! Binary floating point by exact arithmetic: values are integers times powers of two, and one
//! rounding makes a format of them. Nothing here uses the host's floating point.

use std::cmp::Ordering;

/// A floating-point format with infinities, subnormals and NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub bits: u32,
    /// Bits of the significand, the hidden one included.
    pub precision: u32,
}

pub const F16: Format = Format { bits: 16, precision: 11 };
pub const BF16: Format = Format { bits: 16, precision: 8 };
pub const F32: Format = Format { bits: 32, precision: 24 };
pub const F64: Format = Format { bits: 64, precision: 53 };

/// Rounding: to nearest even, to zero, down, up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Rn,
    Rz,
    Rm,
    Rp,
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.bits - self.precision - 1)) - 1
    }

    /// Exponent of the smallest normal number.
    fn emin(self) -> i32 {
        1 - self.bias()
    }

    pub fn sign_bit(self) -> u64 {
        1 << (self.bits - 1)
    }

    pub fn infinity(self) -> u64 {
        ((1 << (self.bits - self.precision)) - 1) << (self.precision - 1)
    }

    /// The NaN that arithmetic gives: all bits but the sign.
    pub fn nan(self) -> u64 {
        self.sign_bit() - 1
    }

    pub fn one(self) -> u64 {
        (self.bias() as u64) << (self.precision - 1)
    }

    pub fn is_nan(self, x: u64) -> bool {
        x & !self.sign_bit() > self.infinity()
    }

    pub fn is_subnormal(self, x: u64) -> bool {
        let magnitude = x & !self.sign_bit();
        magnitude != 0 && magnitude < 1 << (self.precision - 1)
    }

    /// `.ftz`: a subnormal becomes a zero of its sign.
    pub fn flush(self, x: u64) -> u64 {
        if self.is_subnormal(x) { x & self.sign_bit() } else { x }
    }

    /// `.sat`: to [0, 1], NaN to +0.
    pub fn saturate(self, x: u64) -> u64 {
        if self.is_nan(x) || x & self.sign_bit() != 0 { 0 } else { x.min(self.one()) }
    }

    pub fn decode(self, x: u64) -> Value {
        let negative = x & self.sign_bit() != 0;
        let magnitude = x & !self.sign_bit();
        if magnitude > self.infinity() {
            return Value::Nan;
        }
        if magnitude == self.infinity() {
            return Value::Infinity(negative);
        }
        let field = (magnitude >> (self.precision - 1)) as i32;
        let fraction = magnitude & ((1 << (self.precision - 1)) - 1);
        let hidden = u64::from(field != 0) << (self.precision - 1);
        let exponent = field.max(1) - self.bias() - (self.precision as i32 - 1);
        Value::Finite(Number {
            negative,
            significand: Big::from(u128::from(fraction | hidden)),
            exponent,
            sticky: false,
        })
    }

    /// A value in this format.
    pub fn encode(self, value: &Value, mode: Mode) -> u64 {
        match value {
            Value::Nan => self.nan(),
            Value::Infinity(negative) => self.infinity() | sign(self, *negative),
            Value::Finite(number) => self.round(number, mode),
        }
    }

    fn round(self, n: &Number, mode: Mode) -> u64 {
        let sign = sign(self, n.negative);
        let length = n.significand.length() as i32;
        if length == 0 && !n.sticky {
            return sign;
        }
        let top = (n.exponent + length - 1).max(self.emin());
        let quantum = top - (self.precision as i32 - 1);
        let (mut m, below) = n.significand.split(quantum - n.exponent, n.sticky);
        let up = match mode {
            Mode::Rn => below == Below::More || (below == Below::Half && m & 1 == 1),
            Mode::Rz => false,
            Mode::Rm => below != Below::Zero && n.negative,
            Mode::Rp => below != Below::Zero && !n.negative,
        };
        m += u128::from(up);
        // The hidden bit of `m` adds one to the exponent field; so does a carry.
        let field = ((top - self.emin()) as u128) << (self.precision - 1);
        let magnitude = field + m;
        if magnitude < u128::from(self.infinity()) {
            return sign | magnitude as u64;
        }
        let finite = match mode {
            Mode::Rn => false,
            Mode::Rz => true,
            Mode::Rm => !n.negative,
            Mode::Rp => n.negative,
        };
        sign | (self.infinity() - u64::from(finite))
    }
}

fn sign(format: Format, negative: bool) -> u64 {
    if negative { format.sign_bit() } else { 0 }
}

#[derive(Clone, Debug)]
pub enum Value {
    Nan,
    Infinity(bool),
    Finite(Number),
}

/// `significand · 2^exponent`, and a little more if `sticky`.
#[derive(Clone, Debug)]
pub struct Number {
    pub negative: bool,
    pub significand: Big,
    pub exponent: i32,
    pub sticky: bool,
}

impl Number {
    pub fn is_zero(&self) -> bool {
        self.significand.length() == 0 && !self.sticky
    }
}

impl Value {
    pub fn integer(value: i128) -> Value {
        Value::Finite(Number {
            negative: value < 0,
            significand: Big::from(value.unsigned_abs()),
            exponent: 0,
            sticky: false,
        })
    }

    pub fn negate(self) -> Value {
        match self {
            Value::Nan => Value::Nan,
            Value::Infinity(negative) => Value::Infinity(!negative),
            Value::Finite(n) => Value::Finite(Number { negative: !n.negative, ..n }),
        }
    }

    /// The sum; an exact zero of numbers of different signs is negative when rounding down.
    pub fn add(&self, other: &Value, mode: Mode) -> Value {
        let (a, b) = match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => return Value::Nan,
            (Value::Infinity(a), Value::Infinity(b)) if a != b => return Value::Nan,
            (Value::Infinity(a), _) => return Value::Infinity(*a),
            (_, Value::Infinity(b)) => return Value::Infinity(*b),
            (Value::Finite(a), Value::Finite(b)) => (a, b),
        };
        let exponent = a.exponent.min(b.exponent);
        let x = a.significand.shifted((a.exponent - exponent) as u32);
        let y = b.significand.shifted((b.exponent - exponent) as u32);
        let (negative, significand) = if a.negative == b.negative {
            (a.negative, x.plus(&y))
        } else {
            match x.compare(&y) {
                Ordering::Greater => (a.negative, x.minus(&y)),
                Ordering::Less => (b.negative, y.minus(&x)),
                Ordering::Equal => (mode == Mode::Rm, Big::from(0)),
            }
        };
        Value::Finite(Number { negative, significand, exponent, sticky: false })
    }

    pub fn multiply(&self, other: &Value) -> Value {
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinity(a), Value::Infinity(b)) => Value::Infinity(a != b),
            (Value::Infinity(s), Value::Finite(n)) | (Value::Finite(n), Value::Infinity(s)) => {
                if n.is_zero() { Value::Nan } else { Value::Infinity(*s != n.negative) }
            }
            (Value::Finite(a), Value::Finite(b)) => Value::Finite(Number {
                negative: a.negative != b.negative,
                significand: Big::from(a.significand.small() * b.significand.small()),
                exponent: a.exponent + b.exponent,
                sticky: false,
            }),
        }
    }

    /// The quotient to more than 60 bits, with a sticky bit.
    pub fn divide(&self, other: &Value) -> Value {
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinity(_), Value::Infinity(_)) => Value::Nan,
            (Value::Infinity(s), Value::Finite(n)) => Value::Infinity(*s != n.negative),
            (Value::Finite(n), Value::Infinity(s)) => zero(*s != n.negative),
            (Value::Finite(a), Value::Finite(b)) => {
                let negative = a.negative != b.negative;
                match (a.is_zero(), b.is_zero()) {
                    (true, true) => return Value::Nan,
                    (true, false) => return zero(negative),
                    (false, true) => return Value::Infinity(negative),
                    (false, false) => {}
                }
                let (m, n) = (a.significand.small(), b.significand.small());
                let shift = 126 - (128 - m.leading_zeros());
                let numerator = m << shift;
                Value::Finite(Number {
                    negative,
                    significand: Big::from(numerator / n),
                    exponent: a.exponent - b.exponent - shift as i32,
                    sticky: numerator % n != 0,
                })
            }
        }
    }

    pub fn root(&self) -> Value {
        match self {
            Value::Nan | Value::Infinity(true) => Value::Nan,
            Value::Infinity(false) => Value::Infinity(false),
            Value::Finite(n) if n.is_zero() => self.clone(),
            Value::Finite(n) if n.negative => Value::Nan,
            Value::Finite(n) => {
                let m = n.significand.small();
                let mut shift = 124 - (128 - m.leading_zeros());
                if (n.exponent - shift as i32) % 2 != 0 {
                    shift += 1;
                }
                let radicand = m << shift;
                let root = radicand.isqrt();
                Value::Finite(Number {
                    negative: false,
                    significand: Big::from(root),
                    exponent: (n.exponent - shift as i32) / 2,
                    sticky: root * root != radicand,
                })
            }
        }
    }

    /// The integer that rounding gives, clamped to the range of i128's lower half; `None` for NaN.
    pub fn to_integer(&self, mode: Mode) -> Option<i128> {
        const HUGE: i128 = 1 << 100;
        match self {
            Value::Nan => None,
            Value::Infinity(negative) => Some(if *negative { -HUGE } else { HUGE }),
            Value::Finite(n) => {
                if n.significand.length() as i32 + n.exponent > 100 {
                    return Some(if n.negative { -HUGE } else { HUGE });
                }
                let (m, below) = n.significand.split(-n.exponent, n.sticky);
                let up = match mode {
                    Mode::Rn => below == Below::More || (below == Below::Half && m & 1 == 1),
                    Mode::Rz => false,
                    Mode::Rm => below != Below::Zero && n.negative,
                    Mode::Rp => below != Below::Zero && !n.negative,
                };
                let m = m as i128 + i128::from(up);
                Some(if n.negative { -m } else { m })
            }
        }
    }

    /// Order of two values; `None` with NaN. Zeros are equal.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        let key = |negative: bool, magnitude: Ordering| {
            if negative { magnitude.reverse() } else { magnitude }
        };
        Some(match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => return None,
            (Value::Infinity(a), Value::Infinity(b)) => b.cmp(a),
            (Value::Infinity(a), _) => key(*a, Ordering::Greater),
            (_, Value::Infinity(b)) => key(*b, Ordering::Less),
            (Value::Finite(a), Value::Finite(b)) => {
                if a.is_zero() && b.is_zero() {
                    return Some(Ordering::Equal);
                }
                if a.is_zero() || b.is_zero() || a.negative != b.negative {
                    let positive =
                        |n: &Number| if n.is_zero() { 0 } else { 1 - 2 * i32::from(n.negative) };
                    return Some(positive(a).cmp(&positive(b)));
                }
                let exponent = a.exponent.min(b.exponent);
                let x = a.significand.shifted((a.exponent - exponent) as u32);
                let y = b.significand.shifted((b.exponent - exponent) as u32);
                key(a.negative, x.compare(&y))
            }
        })
    }
}

fn zero(negative: bool) -> Value {
    Value::Finite(Number { negative, significand: Big::from(0), exponent: 0, sticky: false })
}

/// What lies below the last bit kept: nothing, less than a half, a half, more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    Zero,
    Less,
    Half,
    More,
}

/// A natural number.
#[derive(Clone, Debug)]
pub struct Big(Vec<u64>);

impl From<u128> for Big {
    fn from(n: u128) -> Self {
        Big(vec![n as u64, (n >> 64) as u64])
    }
}

impl Big {
    /// Bits up to the highest one.
    pub fn length(&self) -> u32 {
        let top = self.0.iter().rposition(|w| *w != 0);
        top.map_or(0, |i| 64 * (i as u32 + 1) - self.0[i].leading_zeros())
    }

    /// The number, which fits.
    pub fn small(&self) -> u128 {
        assert!(self.length() <= 128);
        let word = |i: usize| u128::from(self.0.get(i).copied().unwrap_or(0));
        word(0) | word(1) << 64
    }

    fn bit(&self, at: u32) -> bool {
        self.0.get((at / 64) as usize).is_some_and(|w| w >> (at % 64) & 1 == 1)
    }

    fn shifted(&self, by: u32) -> Big {
        let mut words = vec![0; (by / 64) as usize];
        let (low, mut carry) = (by % 64, 0u64);
        for word in &self.0 {
            words.push(word << low | carry);
            carry = if low == 0 { 0 } else { word >> (64 - low) };
        }
        words.push(carry);
        Big(words)
    }

    fn plus(&self, other: &Big) -> Big {
        let mut carry = 0u128;
        let words = (0..=self.0.len().max(other.0.len())).map(|i| {
            let word = |n: &Big| u128::from(n.0.get(i).copied().unwrap_or(0));
            carry += word(self) + word(other);
            let low = carry as u64;
            carry >>= 64;
            low
        });
        Big(words.collect())
    }

    /// The difference; `other` is not larger.
    fn minus(&self, other: &Big) -> Big {
        let mut borrow = false;
        let words = self.0.iter().enumerate().map(|(i, word)| {
            let (x, b1) = word.overflowing_sub(other.0.get(i).copied().unwrap_or(0));
            let (x, b2) = x.overflowing_sub(u64::from(borrow));
            borrow = b1 || b2;
            x
        });
        Big(words.collect())
    }

    fn compare(&self, other: &Big) -> Ordering {
        let words = self.0.len().max(other.0.len());
        let word = |n: &Big, i: usize| n.0.get(i).copied().unwrap_or(0);
        (0..words)
            .rev()
            .map(|i| word(self, i).cmp(&word(other, i)))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// The number without its low `by` bits, and what they were; for negative `by` shifted left.
    fn split(&self, by: i32, sticky: bool) -> (u128, Below) {
        if by <= 0 {
            let below = if sticky { Below::Less } else { Below::Zero };
            assert!(!sticky || by == 0, "a sticky bit far below");
            return (self.shifted(by.unsigned_abs()).small(), below);
        }
        let by = by as u32;
        let length = self.length();
        let mut kept = 0u128;
        for at in (by..length.max(by)).rev() {
            kept = kept << 1 | u128::from(self.bit(at));
        }
        let rest = sticky || (0..(by - 1).min(length)).any(|at| self.bit(at));
        let below = match (self.bit(by - 1), rest) {
            (false, false) => Below::Zero,
            (false, true) => Below::Less,
            (true, false) => Below::Half,
            (true, true) => Below::More,
        };
        (kept, below)
    }
}

/// `a + b` and so on in one format, on bits.
pub fn add(f: Format, mode: Mode, a: u64, b: u64) -> u64 {
    f.encode(&f.decode(a).add(&f.decode(b), mode), mode)
}

pub fn sub(f: Format, mode: Mode, a: u64, b: u64) -> u64 {
    f.encode(&f.decode(a).add(&f.decode(b).negate(), mode), mode)
}

pub fn mul(f: Format, mode: Mode, a: u64, b: u64) -> u64 {
    f.encode(&f.decode(a).multiply(&f.decode(b)), mode)
}

pub fn fma(f: Format, mode: Mode, a: u64, b: u64, c: u64) -> u64 {
    f.encode(&f.decode(a).multiply(&f.decode(b)).add(&f.decode(c), mode), mode)
}

pub fn div(f: Format, mode: Mode, a: u64, b: u64) -> u64 {
    f.encode(&f.decode(a).divide(&f.decode(b)), mode)
}

pub fn sqrt(f: Format, mode: Mode, a: u64) -> u64 {
    f.encode(&f.decode(a).root(), mode)
}

/// From one format to another.
pub fn convert(from: Format, to: Format, mode: Mode, a: u64) -> u64 {
    to.encode(&from.decode(a), mode)
}

#[test]
fn the_model_agrees_with_the_host_where_the_host_is_exact() {
    // Rust 1.95 compiles `is_nan` of the root of a negative number wrongly in some places.
    use std::hint::black_box;
    let mut random = super::harness::Random::new(7);
    for _ in 0..30_000 {
        let [a, b, c] = [0; 3].map(|_| super::harness::Kind::F32.random(&mut random));
        let f = |x: u64| f32::from_bits(x as u32);
        let same = |name: &str, model: u64, host: f32| {
            let host = if host.is_nan() { 0x7fff_ffff } else { u64::from(host.to_bits()) };
            assert_eq!(model, host, "{name} {a:#x} {b:#x} {c:#x}");
        };
        same("add", add(F32, Mode::Rn, a, b), f(a) + f(b));
        same("sub", sub(F32, Mode::Rn, a, b), f(a) - f(b));
        same("mul", mul(F32, Mode::Rn, a, b), f(a) * f(b));
        same("div", div(F32, Mode::Rn, a, b), f(a) / f(b));
        same("sqrt", sqrt(F32, Mode::Rn, a), black_box(f(a).sqrt()));
        same("fma", fma(F32, Mode::Rn, a, b, c), f(a).mul_add(f(b), f(c)));
        let half = half::f16::from_f32(f(a)).to_bits();
        if !f(a).is_nan() {
            assert_eq!(convert(F32, F16, Mode::Rn, a), u64::from(half), "{a:#x}");
            let host = half::bf16::from_f32(f(a)).to_bits();
            assert_eq!(convert(F32, BF16, Mode::Rn, a), u64::from(host), "{a:#x}");
        }
        let [a, b, c] = [0; 3].map(|_| super::harness::Kind::F64.random(&mut random));
        let f = f64::from_bits;
        let same = |name: &str, model: u64, host: f64| {
            let host = if host.is_nan() { F64.nan() } else { host.to_bits() };
            assert_eq!(model, host, "{name} {a:#x} {b:#x} {c:#x}");
        };
        same("add", add(F64, Mode::Rn, a, b), f(a) + f(b));
        same("mul", mul(F64, Mode::Rn, a, b), f(a) * f(b));
        same("div", div(F64, Mode::Rn, a, b), f(a) / f(b));
        same("sqrt", sqrt(F64, Mode::Rn, a), black_box(f(a).sqrt()));
        same("fma", fma(F64, Mode::Rn, a, b, c), f(a).mul_add(f(b), f(c)));
        if !f(a).is_nan() {
            assert_eq!(convert(F64, F32, Mode::Rn, a), u64::from((f(a) as f32).to_bits()));
            let toward_zero = f(a) as i64;
            let model = F64.decode(a).to_integer(Mode::Rz).expect("no NaN");
            assert_eq!(model.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64, toward_zero);
        }
    }
}
