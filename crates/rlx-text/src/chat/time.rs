//! `strftime_now`: the date in UTC, formatted as Python's `strftime` does in the C locale.

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Calendar fields of a second count since 1970, UTC.
struct Date {
    year: i64,
    /// From 0.
    month: usize,
    day: i64,
    /// From 0.
    day_of_year: i64,
    /// Monday is 0.
    weekday: usize,
    seconds: i64,
}

impl Date {
    /// Days-to-civil after Howard Hinnant's `chrono`-compatible algorithms.
    fn at(unix_seconds: i64) -> Self {
        let (days, seconds) = (unix_seconds.div_euclid(86_400), unix_seconds.rem_euclid(86_400));
        let z = days + 719_468;
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let from_march = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * from_march + 2) / 153;
        let day = from_march - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 2 } else { mp - 10 };
        let year = yoe + era * 400 + i64::from(month < 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year = if month < 2 { from_march - 306 } else { from_march + 59 + i64::from(leap) };
        Self {
            year,
            month: usize::try_from(month).unwrap_or(0),
            day,
            day_of_year,
            weekday: usize::try_from((days + 3).rem_euclid(7)).unwrap_or(0),
            seconds,
        }
    }
}

/// `format` with its directives filled in; unknown ones stay as they are.
pub(super) fn strftime(format: &str, unix_seconds: i64) -> String {
    let date = Date::at(unix_seconds);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('-') => {
                let padded = chars.next().and_then(|d| directive(&date, d)).unwrap_or_default();
                let bare = padded.trim_start_matches(['0', ' ']);
                out.push_str(if bare.is_empty() { "0" } else { bare });
            }
            Some(d) => match directive(&date, d) {
                Some(text) => out.push_str(&text),
                None => out.extend(['%', d]),
            },
            None => out.push('%'),
        }
    }
    out
}

fn directive(d: &Date, name: char) -> Option<String> {
    let (hour, minute, second) = (d.seconds / 3600, d.seconds / 60 % 60, d.seconds % 60);
    let (month, weekday) = (MONTHS.get(d.month)?, DAYS.get(d.weekday)?);
    let hour12 = (hour + 11) % 12 + 1;
    Some(match name {
        'Y' => d.year.to_string(),
        'y' => format!("{:02}", d.year.rem_euclid(100)),
        'm' => format!("{:02}", d.month + 1),
        'd' => format!("{:02}", d.day),
        'e' => format!("{:2}", d.day),
        'j' => format!("{:03}", d.day_of_year + 1),
        'H' => format!("{hour:02}"),
        'I' => format!("{hour12:02}"),
        'M' => format!("{minute:02}"),
        'S' => format!("{second:02}"),
        'p' => if hour < 12 { "AM" } else { "PM" }.into(),
        'B' => (*month).into(),
        'b' | 'h' => month.get(..3)?.into(),
        'A' => (*weekday).into(),
        'a' => weekday.get(..3)?.into(),
        'w' => ((d.weekday + 1) % 7).to_string(),
        'F' => format!("{}-{:02}-{:02}", d.year, d.month + 1, d.day),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        'D' => format!("{:02}/{:02}/{:02}", d.month + 1, d.day, d.year.rem_euclid(100)),
        'Z' | 'z' => String::new(),
        'n' => "\n".into(),
        't' => "\t".into(),
        '%' => "%".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_as_python_formats_them() {
        let all = "%Y-%m-%d %H:%M:%S %j %a %A %b %B %-d %e %I%p %y %w %% %Q";
        assert_eq!(strftime(all, 0), "1970-01-01 00:00:00 001 Thu Thursday Jan January 1  1 12AM 70 4 % %Q");
        assert_eq!(strftime(all, 1_709_210_096), "2024-02-29 12:34:56 060 Thu Thursday Feb February 29 29 12PM 24 4 % %Q");
        assert_eq!(strftime("%d %b %Y %j", 1_735_603_200), "31 Dec 2024 366");
        assert_eq!(strftime("%d %b %Y", 951_868_800), "01 Mar 2000");
        assert_eq!(strftime("%F %-H", -1), "1969-12-31 23");
    }
}
