use super::packet::Packet;
use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// Two ends and a way between them that takes 1 ms.
struct Way {
    now: Instant,
    ends: [Session; 2],
    /// Whether what this end sends arrives.
    open: [bool; 2],
    in_flight: Vec<(Instant, usize, [u8; 24])>,
    sent: [usize; 2],
    /// Which end came to which state when.
    changes: Vec<(Instant, usize, State)>,
}

impl Way {
    fn new(a: Bfd, b: Bfd) -> Self {
        let now = Instant::now();
        Self {
            now,
            ends: [Session::new(now, 11, a), Session::new(now, 22, b)],
            open: [true; 2],
            in_flight: Vec::new(),
            sent: [0; 2],
            changes: Vec::new(),
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for place in 0..2 {
                while let Some(packet) = self.ends[place].poll_transmit(self.now) {
                    self.sent[place] += 1;
                    if self.open[place] {
                        self.in_flight.push((self.now + MS, 1 - place, packet));
                    }
                }
            }
            let timers = self.ends.iter().filter_map(Session::next_timeout);
            let arrivals = self.in_flight.iter().map(|(at, ..)| *at);
            let Some(next) = timers.chain(arrivals).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            for place in 0..2 {
                let before = self.ends[place].state();
                self.ends[place].timeout(self.now);
                if self.ends[place].state() != before {
                    self.changes.push((self.now, place, self.ends[place].state()));
                }
            }
            for (_, to, packet) in self.in_flight.extract_if(.., |(at, ..)| *at <= self.now).collect::<Vec<_>>() {
                if let Some(state) = self.ends[to].receive(self.now, &packet).unwrap() {
                    self.changes.push((self.now, to, state));
                }
            }
        }
        self.now = end;
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

fn fast(milliseconds: u32) -> Bfd {
    Bfd { transmit: MS * milliseconds, receive: MS * milliseconds, ..Bfd::default() }
}

#[test]
fn both_ends_come_up_and_the_slower_one_sets_the_pace() {
    for (a, b, slower) in [(10, 10, 10), (100, 10, 100), (10, 300, 300)] {
        let mut way = Way::new(fast(a), fast(b));
        way.run_for(Duration::from_secs(3));
        assert_eq!(way.states(), [State::Up; 2]);
        assert_eq!(way.ends[0].detection_time(), MS * slower * 3);
        way.sent = [0; 2];
        way.run_for(Duration::from_secs(10));
        let usual = 10_000 / slower as usize;
        for sent in way.sent {
            assert!((usual..=usual * 4 / 3 + 2).contains(&sent), "{sent} packets of about {usual}");
        }
        assert_eq!(way.states(), [State::Up; 2]);
    }
}

#[test]
fn a_dead_neighbour_is_gone_within_the_detection_time_and_comes_back() {
    let mut way = Way::new(Bfd::default(), Bfd::default());
    way.run_for(Duration::from_secs(5));
    way.changes.clear();
    let cut = way.now;
    way.open = [false; 2];
    way.run_for(Duration::from_secs(2));
    for end in 0..2 {
        let (at, _, state) = way.changes.iter().find(|(_, place, _)| *place == end).unwrap();
        assert_eq!(*state, State::Down);
        let took = at.duration_since(cut);
        assert!(took > MS * 150 && took <= MS * 301, "{took:?}");
        assert_eq!(way.ends[end].diagnostic(), Diagnostic::TimeExpired);
    }
    way.open = [true; 2];
    way.run_for(Duration::from_secs(3));
    assert_eq!(way.states(), [State::Up; 2]);
}

#[test]
fn one_way_that_is_cut_takes_both_ends_down() {
    let mut way = Way::new(Bfd::default(), Bfd::default());
    way.run_for(Duration::from_secs(5));
    way.changes.clear();
    way.open = [true, false];
    let cut = way.now;
    way.run_for(MS * 500);
    assert_eq!(way.ends[0].diagnostic(), Diagnostic::TimeExpired);
    let told = way.changes.iter().find(|(_, place, state)| (*place, *state) == (1, State::Down));
    assert!(told.unwrap().0.duration_since(cut) <= MS * 303, "the other end is told");
    assert_eq!(way.ends[1].diagnostic(), Diagnostic::NeighbourDown);
}

#[test]
fn timers_change_under_a_session_that_stays_up() {
    let mut way = Way::new(fast(50), fast(50));
    way.run_for(Duration::from_secs(4));
    way.changes.clear();
    for milliseconds in [500, 10, 300, 100] {
        way.ends[0].configure(fast(milliseconds));
        way.run_for(Duration::from_secs(5));
        assert_eq!(way.changes, [], "{milliseconds}");
        assert_eq!(way.ends[1].detection_time(), MS * milliseconds.max(50) * 3);
        assert_eq!(way.ends[0].poll, None, "the poll sequence ended");
    }
}

#[test]
fn going_on_purpose_is_told_as_such() {
    let mut way = Way::new(Bfd::default(), Bfd::default());
    way.run_for(Duration::from_secs(5));
    way.ends[0].shut_down();
    way.run_for(MS * 50);
    assert_eq!((way.ends[1].state(), way.ends[1].diagnostic()), (State::Down, Diagnostic::AdminDown));
    way.run_for(Duration::from_secs(5));
    assert_eq!(way.ends[1].state(), State::Down);
}

#[test]
fn packets_that_do_not_count_are_ignored_with_the_reason() {
    let mut session = Session::new(Instant::now(), 7, Bfd::default());
    let good = Packet {
        state: State::Down,
        diagnostic: 0,
        poll: false,
        last: false,
        multiplier: 3,
        mine: 9,
        yours: 0,
        min_transmit: SLOW,
        min_receive: SLOW,
    };
    let spoilt = |change: fn(&mut [u8; 24])| {
        let mut bytes = good.encode();
        change(&mut bytes);
        bytes
    };
    for (change, reason) in [
        ((|b| b[0] = 0x40) as fn(&mut [u8; 24]), Ignored::Version(2)),
        (|b| b[1] |= 0x04, Ignored::Authenticated),
        (|b| b[1] |= 0x01, Ignored::Malformed),
        (|b| b[2] = 0, Ignored::Malformed),
        (|b| b[3] = 23, Ignored::Short(23)),
        (|b| b[3] = 25, Ignored::Short(24)),
        (|b| b[7] = 0, Ignored::Malformed),
        (|b| b[11] = 8, Ignored::Stranger(8)),
        (|b| b[1] = 0xc0, Ignored::Malformed),
    ] {
        assert_eq!(session.receive(Instant::now(), &spoilt(change)), Err(reason));
    }
    assert_eq!(session.receive(Instant::now(), &good.encode()[..23]), Err(Ignored::Short(23)));
    assert_eq!(session.receive(Instant::now(), &good.encode()), Ok(Some(State::Init)));
    assert_eq!(Packet::parse(&good.encode()), Ok(good));
}

proptest! {
    #[test]
    fn no_octets_make_it_panic_or_hang(packets: Vec<Vec<u8>>, gaps: Vec<u16>) {
        let mut now = Instant::now();
        let mut session = Session::new(now, 7, Bfd::default());
        for (mut packet, gap) in packets.into_iter().zip(gaps.into_iter().cycle()) {
            if packet.len() >= 24 {
                (packet[0], packet[3]) = (0x20, 24);
            }
            let _ = session.receive(now, &packet);
            now += MS * u32::from(gap);
            session.timeout(now);
            let sent = std::iter::from_fn(|| session.poll_transmit(now)).take(10).count();
            prop_assert!(sent < 10);
        }
    }
}
