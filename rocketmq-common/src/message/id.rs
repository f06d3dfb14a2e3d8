//! Ids of messages: unique ids, made by clients, and offset ids, made by brokers.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Makes unique ids of messages.
///
/// No two ids are the same, over threads, forks and processes that share an address and a process id, as long as
/// their random parts (32 bits a process) differ.
///
/// # Protocol
/// Property `UNIQ_KEY`; Java `MessageClientIDSetter`: upper-case hex of address (4 or 16 bytes), process id (2), random
/// part (4), ms since the month began (4), counter (2). Peers take the id as opaque text; only tools read its time,
/// and they allow for half a day, so the month is the one of UTC here and the local one in Java.
#[derive(Debug)]
pub struct UniqueIdGenerator {
    ip: IpAddr,
    /// Tells apart processes that share address and process id, such as those of containers.
    discriminator: u32,
    /// Time of the last id in ms since the epoch (upper 48 bits) and its counter (lower 16): it only grows. An id
    /// within the same ms is one more, and where the counter is used up the carry goes into the time, which then
    /// runs ahead of the clock. So a clock that is set back does no harm either.
    last: AtomicU64,
    /// The process id, as it was when the time last moved on.
    pid: AtomicU32,
}

impl UniqueIdGenerator {
    /// Creates a generator whose ids start with this address.
    pub fn new(ip: IpAddr) -> Self {
        let random = RandomState::new().hash_one(std::process::id());
        let [a, b, c, d, e, f, ..] = random.to_be_bytes();
        let counter = u16::from_be_bytes([e, f]);
        Self {
            ip,
            discriminator: u32::from_be_bytes([a, b, c, d]),
            last: AtomicU64::new(counter.into()),
            pid: AtomicU32::new(std::process::id()),
        }
    }

    /// Returns the generator of this process, made on first use with [`local_ip`].
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<UniqueIdGenerator> = OnceLock::new();
        GLOBAL.get_or_init(|| Self::new(local_ip()))
    }

    /// Makes an id: 32 characters, or 56 where the address is one of IPv6.
    pub fn next(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.make(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), std::process::id)
    }

    fn make(&self, now_ms: u64, process_id: impl FnOnce() -> u32) -> String {
        let (ms, counter, time_moved) = self.advance(now_ms);
        // A fork has the same memory and another process id. It is asked for, which is a system call, once a
        // millisecond: no fork gets to its first id within the millisecond of its parent's last one.
        let pid = if time_moved { process_id() } else { self.pid.load(Ordering::Relaxed) };
        if time_moved {
            self.pid.store(pid, Ordering::Relaxed);
        }
        let (month, ms_of_month) = month_of(ms);
        let [pid_a, pid_b, pid_c, pid_d] = pid.to_be_bytes();
        // The id has room for half of the process id and for a time that starts again each month. What is cut off
        // goes into the random part, so that neither a fork nor a later month can repeat an id.
        let discriminator =
            self.discriminator.wrapping_add(u32::from_be_bytes([pid_a, pid_b, 0, 0])).wrapping_add(month);
        let mut id = Hex::default();
        id.push_ip(self.ip);
        id.push(&[pid_c, pid_d]);
        id.push(&discriminator.to_be_bytes());
        id.push(&ms_of_month.to_be_bytes());
        id.push(&counter.to_be_bytes());
        id.as_str().to_owned()
    }

    /// Takes the next pair of time and counter; the last value tells whether the time is another one than before.
    fn advance(&self, now_ms: u64) -> (u64, u16, bool) {
        let step = |last: u64| {
            let next = last.wrapping_add(1);
            let at_now = (now_ms << 16) | (next & 0xFFFF);
            if last >> 16 < now_ms { at_now } else { next }
        };
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = step(last);
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let [.., high, low] = next.to_be_bytes();
                    return (next >> 16, u16::from_be_bytes([high, low]), next >> 16 != last >> 16);
                }
                Err(other) => last = other,
            }
        }
    }
}

/// The month (counted from year 0) in which a time lies, and the ms since that month began.
fn month_of(ms: u64) -> (u32, u32) {
    // Days to civil date, after Howard Hinnant: years begin in March, so that the leap day comes last.
    let days = ms / DAY_MS + 719_468;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    let month = (days / 146_097 * 400 + year_of_era) * 12 + month;
    let ms_of_month = day_of_month * DAY_MS + ms % DAY_MS;
    // 48 bits of ms are 107,000 months, and a month has fewer than 2^32 ms.
    (u32::try_from(month).unwrap_or(0), u32::try_from(ms_of_month).unwrap_or(0))
}

/// Finds the address from which this machine talks to others; loopback where there is none.
///
/// Asks the routing table which interface leads to an address that is nobody's. No packet is sent.
pub fn local_ip() -> IpAddr {
    let via = |from: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified())
    };
    via(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
        .or_else(|| via(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1).into()))
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// Where a broker stored a message: the id which the broker gives it.
///
/// # Protocol
/// Upper-case hex of address (4 or 16 bytes), port (4) and commit log offset (8); Java
/// `MessageDecoder.createMessageId`. Witness: test `the_offset_id_of_a_real_broker_is_read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OffsetId {
    /// Address of the broker.
    pub host: SocketAddr,
    /// Position in the broker's commit log, in bytes.
    pub commit_log_offset: i64,
}

impl fmt::Display for OffsetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = Hex::default();
        id.push_ip(self.host.ip());
        id.push(&u32::from(self.host.port()).to_be_bytes());
        id.push(&self.commit_log_offset.to_be_bytes());
        f.write_str(id.as_str())
    }
}

/// Why a text is no offset id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OffsetIdError {
    /// The text has neither 32 characters nor 56.
    #[error("an offset id has 32 or 56 characters, not {length}")]
    Length {
        /// Bytes in the text.
        length: usize,
    },
    /// The text holds something other than hex digits.
    #[error("an offset id holds hex digits only, not {character:?}")]
    Digit {
        /// The first character that is none.
        character: char,
    },
    /// The port is none.
    #[error("the port {port} of the offset id is out of range")]
    Port {
        /// What stands in its place.
        port: u32,
    },
}

impl FromStr for OffsetId {
    type Err = OffsetIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 && text.len() != 56 {
            return Err(OffsetIdError::Length { length: text.len() });
        }
        if let Some(character) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(OffsetIdError::Digit { character });
        }
        let number = |digits: &str| u64::from_str_radix(digits, 16).expect("at most 16 hex digits");
        let (ip, rest) = text.split_at(text.len() - 24);
        let ip = if ip.len() == 8 {
            let bits = u32::from_str_radix(ip, 16).expect("8 hex digits");
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(ip, 16).expect("32 hex digits")))
        };
        let (port, offset) = rest.split_at(8);
        let port = u32::from_str_radix(port, 16).expect("8 hex digits");
        let port = u16::try_from(port).map_err(|_| OffsetIdError::Port { port })?;
        Ok(Self {
            host: SocketAddr::new(ip, port),
            commit_log_offset: i64::from_be_bytes(number(offset).to_be_bytes()),
        })
    }
}

/// Hex digits of an id, on the stack.
struct Hex {
    digits: [u8; 56],
    len: usize,
}

impl Default for Hex {
    fn default() -> Self {
        Self { digits: [0; 56], len: 0 }
    }
}

impl Hex {
    fn push_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.push(&ip.octets()),
            IpAddr::V6(ip) => self.push(&ip.octets()),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for &byte in bytes {
            self.digits[self.len] = DIGITS[usize::from(byte >> 4)];
            self.digits[self.len + 1] = DIGITS[usize::from(byte & 0xF)];
            self.len += 2;
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits[..self.len]).expect("hex digits are ASCII")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
    /// 2024-03-01T00:00:00Z, the day after a leap day.
    const MARCH_2024: u64 = 1_709_251_200_000;

    #[test]
    fn an_id_is_laid_out_as_in_java() {
        let ids = UniqueIdGenerator {
            ip: IP,
            discriminator: 0x1234_5678,
            last: AtomicU64::new(0x0006),
            pid: AtomicU32::new(0),
        };
        let (month, _) = month_of(MARCH_2024);
        ids.make(MARCH_2024 + 0xABCD, || 0x4321);
        let id = ids.make(MARCH_2024 + 0xABCD, || 0x4321);
        assert_eq!(id, format!("7F0000014321{:08X}0000ABCD0008", 0x1234_5678 + month));
        let v6 = UniqueIdGenerator::new(Ipv6Addr::LOCALHOST.into()).next();
        assert_eq!(v6.len(), 56);
        assert!(v6.starts_with("00000000000000000000000000000001"));
    }

    #[test]
    fn the_time_starts_again_each_month() {
        assert_eq!(month_of(MARCH_2024).1, 0);
        let (february, last_ms) = month_of(MARCH_2024 - 1);
        assert_eq!(u64::from(last_ms), 29 * DAY_MS - 1);
        assert_eq!(february + 1, month_of(MARCH_2024).0);
        // New year's day, the first day of all, and a time 48 bits cannot pass.
        assert_eq!(month_of(1_704_067_200_000).1, 0);
        assert_eq!(month_of(0).1, 0);
        assert!(month_of((1 << 48) - 1).1 > 0);
    }

    #[test]
    fn more_ids_than_the_counter_holds_stay_unique_within_one_millisecond() {
        let ids = UniqueIdGenerator::new(IP);
        let made: HashSet<_> = (0..200_000).map(|_| ids.make(MARCH_2024, || 7)).collect();
        assert_eq!(made.len(), 200_000);
    }

    #[test]
    fn a_clock_set_back_repeats_nothing() {
        let ids = UniqueIdGenerator::new(IP);
        let made: HashSet<_> = (0..300).map(|n| ids.make(MARCH_2024 + 100 - n % 100, || 7)).collect();
        assert_eq!(made.len(), 300);
    }

    #[test]
    fn a_fork_and_a_later_month_make_other_ids() {
        let make = |ms, pid| {
            let ids = UniqueIdGenerator { ip: IP, discriminator: 9, last: AtomicU64::new(0), pid: AtomicU32::new(0) };
            ids.make(ms, || pid)
        };
        let april = MARCH_2024 + 31 * DAY_MS;
        let made = [make(MARCH_2024, 7), make(MARCH_2024, 8), make(MARCH_2024, 0x1_0007), make(april, 7)];
        assert_eq!(HashSet::from(made).len(), 4);
    }

    #[test]
    fn ids_are_unique_over_threads() {
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..25_000).map(|_| UniqueIdGenerator::global().next()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), 100_000);
    }

    #[test]
    fn the_offset_id_of_a_real_broker_is_read() {
        // Out of a send reply of a broker 5.3.3.
        let id: OffsetId = "7F00000100002A9F000000001413B380".parse().unwrap();
        assert_eq!(id, OffsetId { host: "127.0.0.1:10911".parse().unwrap(), commit_log_offset: 0x1413_B380 });
        assert_eq!(id.to_string(), "7F00000100002A9F000000001413B380");
    }

    #[test]
    fn what_is_no_offset_id_is_refused() {
        let read = |text: &str| text.parse::<OffsetId>().unwrap_err();
        assert_eq!(read(""), OffsetIdError::Length { length: 0 });
        assert_eq!(read("+F00000100002A9F000000001413B380"), OffsetIdError::Digit { character: '+' });
        assert_eq!(read("é000000100002A9F000000001413B38"), OffsetIdError::Digit { character: 'é' });
        assert_eq!(read("7F00000100012A9F000000001413B380"), OffsetIdError::Port { port: 0x1_2A9F });
    }

    proptest! {
        #[test]
        fn an_offset_id_reads_as_it_was_written(ip: IpAddr, port: u16, commit_log_offset: i64) {
            let id = OffsetId { host: SocketAddr::new(ip, port), commit_log_offset };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        }

        #[test]
        fn any_text_is_survived(text in "[0-9A-Fa-fé+]{30,58}") {
            let _ = text.parse::<OffsetId>();
        }
    }
}
