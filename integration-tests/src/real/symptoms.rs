//! What a broker's log says of refused writes: the reason why many scenarios fail at once.

/// What brokers write when they store no more or remove what they have stored, 4.x and 5.x, and answer with code 14.
const SIGNS: [&str; 5] = ["disk full", "disk is full", "maybe full", "store is not writ", "service not available"];
const LONGEST: usize = 200;

/// One line on a broker's log: how many lines tell of a full disk, and the last of them.
pub(super) fn of_full_disk(log: &str) -> String {
    let is_sign = |line: &&str| {
        let line = line.to_ascii_lowercase();
        SIGNS.iter().any(|sign| line.contains(sign))
    };
    let lines: Vec<&str> = log.lines().filter(is_sign).collect();
    match lines.last() {
        None => "no line of a full disk in its log".to_owned(),
        Some(last) => {
            let last: String = last.chars().take(LONGEST).collect();
            format!("lines of a full disk in its log: {}, the last: {last}", lines.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_in_many_ways() {
        for line in [
            "ERROR StoreScheduledThread RocketmqStore - physic disk maybe full soon 0.91, so mark disk full",
            "WARN SendMessageThread_1 RocketmqStore - the message store is not writable. It may be caused by",
            "message store is not writeable, so putMessage is forbidden 16",
            "CODE: 14  DESC: service not available now. It may be caused by one of the following reasons: the broker's disk is full",
        ] {
            let log = format!("before\n{line}\nafter\n");
            assert_eq!(of_full_disk(&log), format!("lines of a full disk in its log: 1, the last: {line}"));
        }
    }

    #[test]
    fn the_last_line_is_shown_and_cut() {
        let log = format!("disk full 1\ndisk full 2 {}\n", "é".repeat(LONGEST));
        let told = of_full_disk(&log);
        assert!(told.starts_with("lines of a full disk in its log: 2, the last: disk full 2 éé"), "{told}");
        assert_eq!(told.lines().count(), 1);
        assert!(told.chars().count() < LONGEST + 60);
    }

    #[test]
    fn other_lines_are_no_sign() {
        assert_eq!(of_full_disk("WARN - No new message\n"), "no line of a full disk in its log");
        assert_eq!(of_full_disk(""), "no line of a full disk in its log");
    }
}
