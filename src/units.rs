//! Durations, sizes and shares as operators write them: the unit stands in the value.

use std::time::Duration;

/// Reads `"250ms"`, `"1.5s"`, `"2m"`, `"1h"`, `"1d"`, or `"0"`; units are `us ms s m h d`. At most 10 years.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "write a number and a unit, such as \"250ms\", \"5s\", \"10m\" or \"1h\"";
    let (number, unit) = split(text);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        "" if number == "0" => 1.0,
        _ => return Err(FORM.to_owned()),
    };
    let value: f64 = number.parse().map_err(|_| FORM.to_owned())?;
    let span = value * seconds;
    if span > 10.0 * 365.0 * 86400.0 {
        return Err("write at most ten years".to_owned());
    }
    Duration::try_from_secs_f64(span).map_err(|_| FORM.to_owned())
}

/// Reads `"64KiB"`, `"1MiB"`, `"2GiB"`, `"500kB"`, `"10MB"` or `"100B"`; units are `B kB MB GB KiB MiB GiB`. At most 1 TiB.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn bytes(text: &str) -> Result<u64, String> {
    const FORM: &str = "write a whole number and a unit, such as \"64KiB\", \"1MiB\" or \"500kB\"";
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "B" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if number == "0" => 1,
        _ => return Err(FORM.to_owned()),
    };
    let value: u64 = number.parse().map_err(|_| FORM.to_owned())?;
    value.checked_mul(factor).filter(|size| *size <= 1 << 40).ok_or_else(|| "write at most \"1024GiB\"".to_owned())
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A duration as it would be written: the largest unit in which it is a whole number, else seconds.
#[must_use]
pub fn show_duration(span: Duration) -> String {
    let micros = span.as_micros();
    for (unit, size) in [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)] {
        if micros >= size && micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    if micros == 0 { "0s".to_owned() } else { format!("{micros}us") }
}

/// A size as it would be written: the largest binary unit in which it is a whole number, else bytes.
#[must_use]
pub fn show_bytes(size: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if size >= 1 << shift && size.trailing_zeros() >= shift {
            return format!("{}{unit}", size >> shift);
        }
    }
    format!("{size}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["5", "s", "-1s", "1.2.3s", "1e3s", "5 parsecs", "", "99999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_size_needs_a_unit() {
        assert_eq!(bytes("64KiB"), Ok(65536));
        assert_eq!(bytes("500kB"), Ok(500_000));
        for wrong in ["5", "1.5MiB", "-1B", "9999999GiB", "KiB", "64kib"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["250ms", "5s", "90m", "1h", "12us", "3d", "0s"] {
            let span = duration(text).expect("valid");
            assert_eq!(duration(&show_duration(span)), Ok(span));
        }
        for text in ["1B", "64KiB", "3MiB", "1GiB", "1000B"] {
            let size = bytes(text).expect("valid");
            assert_eq!(bytes(&show_bytes(size)), Ok(size));
        }
    }
}
