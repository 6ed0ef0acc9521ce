//! Resource quantities: parsing, canonical text, comparison.
//!
//! Port of `k8s.io/apimachinery/pkg/api/resource`, the quirks of its fast path included: a text that
//! is nearly canonical (`1.500`, `+1`) is kept as it is, because upstream stores it so.

use std::borrow::Cow;
use std::cmp::Ordering;

use thiserror::Error;

/// Digits that surely fit 64 bits.
const SAFE_DIGITS: i32 = 18;
/// The smallest representable step is 10^-9.
const NANO: i32 = -9;
const NANOS: i128 = 1_000_000_000;
/// Binary quantities are capped at the largest value of 64 bits.
const MAX_BINARY: i128 = i64::MAX as i128 * NANOS;

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    /// It does not look like one.
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// Its number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// Its suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Decimal,
    Binary,
    Exponent,
}

/// A quantity: a number in steps of 10^-9 and the notation it was written in.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    form: Form,
}

/// The parts of a quantity's text.
struct Parts<'t> {
    negative: bool,
    whole: &'t str,
    fraction: &'t str,
    suffix: &'t str,
}

impl Quantity {
    /// Parses a text.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        parse(text).map(|(quantity, _)| quantity)
    }

    /// The text upstream would store for this text.
    pub fn canonical_text(text: &str) -> Result<Cow<'_, str>, QuantityError> {
        let text = text.trim();
        let (quantity, kept) = parse(text)?;
        Ok(if kept {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(quantity.to_string())
        })
    }

    /// The value in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        clamp(ceil_div(self.nanos, NANOS / 1000))
    }

    /// The value as an integer, rounded up.
    pub fn value(&self) -> i64 {
        clamp(ceil_div(self.nanos, NANOS))
    }

    /// The quantity without steps below 10^-3, rounded away from zero.
    pub fn rounded_to_milli(&self) -> Quantity {
        let step = NANOS / 1000;
        let up = ceil_div(self.nanos.abs(), step).saturating_mul(step);
        Quantity {
            nanos: up * self.nanos.signum(),
            form: self.form,
        }
    }

    /// A whole number in decimal notation.
    pub fn of(number: i64) -> Quantity {
        Quantity {
            nanos: i128::from(number) * NANOS,
            form: Form::Decimal,
        }
    }

    /// The sum, in the notation of the first unless that is zero.
    pub fn plus(self, other: Quantity) -> Quantity {
        let form = if self.nanos == 0 {
            other.form
        } else {
            self.form
        };
        Quantity {
            nanos: self.nanos.saturating_add(other.nanos),
            form,
        }
    }

    /// The difference, in the notation of the first unless that is zero.
    pub fn minus(self, other: Quantity) -> Quantity {
        self.plus(Quantity {
            nanos: -other.nanos,
            form: other.form,
        })
    }

    /// So many times the quantity.
    pub fn times(self, number: i64) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_mul(i128::from(number)),
            form: self.form,
        }
    }

    /// The quantity rounded up to a whole number.
    pub fn rounded_up(self) -> Quantity {
        Quantity {
            nanos: ceil_div(self.nanos, NANOS).saturating_mul(NANOS),
            form: self.form,
        }
    }

    /// Whether it is a whole number.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// −1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS;
        if self.form == Form::Binary && !small && self.is_integer() {
            let mut amount = self.nanos / NANOS;
            let mut power = 0;
            while amount % 1024 == 0 && power < 6 {
                amount /= 1024;
                power += 1;
            }
            return write!(
                f,
                "{amount}{}",
                ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]
            );
        }
        let (amount, exponent) = thousands(self.nanos);
        if self.form == Form::Exponent {
            return match exponent {
                0 => write!(f, "{amount}"),
                e => write!(f, "{amount}e{e}"),
            };
        }
        let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        write!(f, "{amount}{}", suffixes[((exponent - NANO) / 3) as usize])
    }
}

/// The shortest amount with an exponent that is a multiple of three, at most 18.
fn thousands(nanos: i128) -> (i128, i32) {
    let (mut amount, mut exponent) = (nanos, NANO);
    while amount % 1000 == 0 && exponent < 18 {
        amount /= 1000;
        exponent += 3;
    }
    (amount, exponent)
}

fn ceil_div(n: i128, by: i128) -> i128 {
    n.div_euclid(by) + i128::from(n.rem_euclid(by) != 0)
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

/// The quantity, and whether its text is kept as it is.
fn parse(text: &str) -> Result<(Quantity, bool), QuantityError> {
    if text == "0" {
        return Ok((
            Quantity {
                nanos: 0,
                form: Form::Decimal,
            },
            true,
        ));
    }
    let parts = split(text)?;
    let (base, exponent, form) = suffix(parts.suffix).ok_or(QuantityError::Suffix)?;
    let whole = if parts.whole.is_empty() {
        "0"
    } else {
        parts.whole
    };
    let digits = format!("{whole}{}", parts.fraction);
    let places = parts.fraction.len() as i32;
    let nanos = scaled(&digits, base, exponent, places)?;
    let nanos = match form {
        Form::Binary => nanos.min(MAX_BINARY),
        Form::Decimal | Form::Exponent => nanos,
    };
    let form = if form == Form::Binary && nanos > 0 && nanos < NANOS {
        Form::Decimal
    } else {
        form
    };
    let kept = is_kept(&digits, whole, exponent, places, form);
    let nanos = if parts.negative { -nanos } else { nanos };
    Ok((Quantity { nanos, form }, kept))
}

/// Whether upstream's fast path keeps the text.
fn is_kept(digits: &str, whole: &str, exponent: i32, places: i32, form: Form) -> bool {
    let Ok(number) = digits.parse::<i64>() else {
        return false;
    };
    match form {
        Form::Decimal | Form::Exponent => {
            let scale = exponent - places;
            SAFE_DIGITS >= digits.len() as i32
                && scale >= NANO
                && scale % 3 == 0
                && !digits.ends_with("000")
                && !digits.starts_with('0')
        }
        Form::Binary => {
            let room = 15 - whole.len() as i32 - (exponent as f32 * 3.0 / 10.0) as i32 - 1;
            places == 0 && room >= 0 && number & 7 != 0
        }
    }
}

/// digits × base^exponent × 10^-places in nanos, rounded away from zero, saturating.
fn scaled(digits: &str, base: i32, exponent: i32, places: i32) -> Result<i128, QuantityError> {
    let mut number: i128 = 0;
    for b in digits.bytes() {
        number = number
            .saturating_mul(10)
            .saturating_add(i128::from(b - b'0'));
    }
    let mut tens = -NANO - places;
    if base == 2 {
        number = number.saturating_mul(1 << exponent);
    } else {
        tens = tens.saturating_add(exponent);
    }
    if number == 0 {
        return Ok(0);
    }
    let power = |n: i32| 10i128.checked_pow(n.unsigned_abs());
    Ok(match (tens >= 0, power(tens)) {
        (true, Some(factor)) => number.saturating_mul(factor),
        (true, None) => i128::MAX,
        (false, Some(divisor)) => ceil_div(number, divisor),
        (false, None) => 1,
    })
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let bytes = text.as_bytes();
    let negative = bytes[0] == b'-';
    let mut at = usize::from(matches!(bytes[0], b'-' | b'+'));
    let skip = |at: usize, accept: fn(&u8) -> bool| {
        at + bytes[at..].iter().take_while(|b| accept(b)).count()
    };
    at = skip(at, |b| *b == b'0');
    let whole_end = skip(at, u8::is_ascii_digit);
    let whole = &text[at..whole_end];
    at = whole_end;
    let mut fraction = "";
    if bytes.get(at) == Some(&b'.') {
        let end = skip(at + 1, u8::is_ascii_digit);
        fraction = &text[at + 1..end];
        at = end;
    }
    let start = at;
    at = skip(at, |b| b"eEinumkKMGTP".contains(b));
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    at = skip(at, u8::is_ascii_digit);
    if at != bytes.len() {
        return Err(QuantityError::Format);
    }
    Ok(Parts {
        negative,
        whole,
        fraction,
        suffix: &text[start..],
    })
}

/// Base, exponent and notation of a suffix.
fn suffix(text: &str) -> Option<(i32, i32, Form)> {
    let decimal = |exponent| Some((10, exponent, Form::Decimal));
    let binary = |exponent| Some((2, exponent, Form::Binary));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        other => {
            let number = other.strip_prefix(['e', 'E'])?;
            let exponent: i64 = number.parse().ok()?;
            Some((10, exponent as i32, Form::Exponent))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_what_upstream_stores() {
        for (text, stored) in [
            ("0", "0"),
            ("0.0", "0"),
            ("0m", "0"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1.500", "1.500"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("2000", "2k"),
            ("2", "2"),
            ("+1", "+1"),
            ("-1", "-1"),
            ("1024Mi", "1Gi"),
            ("128Mi", "128Mi"),
            ("1.5Gi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("512Ki", "512Ki"),
            ("0.5Mi", "512Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1e2", "100"),
            ("1E", "1E"),
            ("0.1n", "1n"),
            ("10Gi", "10Gi"),
            ("1000000", "1M"),
        ] {
            assert_eq!(Quantity::canonical_text(text).unwrap(), stored, "{text}");
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        assert_eq!(Quantity::parse("").unwrap_err(), QuantityError::Format);
        assert_eq!(Quantity::parse("1 Gi").unwrap_err(), QuantityError::Format);
        assert_eq!(Quantity::parse("abc").unwrap_err(), QuantityError::Format);
        assert_eq!(Quantity::parse("1Kb").unwrap_err(), QuantityError::Format);
        assert_eq!(Quantity::parse("1mm").unwrap_err(), QuantityError::Suffix);
    }

    #[test]
    fn sums_keep_the_notation_of_the_first() {
        let q = |text| Quantity::parse(text).unwrap();
        assert_eq!(q("1Gi").plus(q("512Mi")).to_string(), "1536Mi");
        assert_eq!(q("0").plus(q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1").minus(q("250m")).to_string(), "750m");
        assert_eq!(q("1500m").rounded_up().to_string(), "2");
    }

    #[test]
    fn values_round_up() {
        assert_eq!(Quantity::parse("100m").unwrap().value(), 1);
        assert_eq!(Quantity::parse("1500u").unwrap().milli_value(), 2);
        assert_eq!(Quantity::parse("1Gi").unwrap().value(), 1 << 30);
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
    }
}
