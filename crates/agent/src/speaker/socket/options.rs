//! Socket options that no library of ours knows: keys of TCP MD5 (RFC 2385) and TCP-AO (RFC 5925), and the least TTL of
//! RFC 5082. Structures as in the kernel's `include/uapi/linux/tcp.h`.
#![allow(unsafe_code, reason = "setsockopt has no safe wrapper for these")]

use lasthop_bgp::config::{Auth, Secret};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// The longest key of either kind.
const LONGEST_KEY: usize = 80;
const TCP_AO_ADD_KEY: libc::c_int = 38;
const TCP_AO_DEL_KEY: libc::c_int = 39;

/// `struct sockaddr_storage` with an address in it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Address([u8; 128]);

impl Address {
    /// Family, port 0, address, as `struct sockaddr_in` and `struct sockaddr_in6` have them.
    fn of(address: IpAddr) -> Self {
        let mut octets = [0; 128];
        let (family, place, text): (u16, usize, Vec<u8>) = match address {
            IpAddr::V4(a) => (libc::AF_INET as u16, 4, a.octets().into()),
            IpAddr::V6(a) => (libc::AF_INET6 as u16, 8, a.octets().into()),
        };
        octets[..2].copy_from_slice(&family.to_ne_bytes());
        octets[place..place + text.len()].copy_from_slice(&text);
        Self(octets)
    }
}

/// `struct tcp_md5sig`.
#[repr(C)]
struct Md5 {
    address: Address,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: libc::c_int,
    key: [u8; LONGEST_KEY],
}

/// `struct tcp_ao_add`.
#[repr(C, align(8))]
struct AoAdd {
    address: Address,
    algorithm: [u8; 64],
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix: u8,
    send_id: u8,
    receive_id: u8,
    mac_len: u8,
    key_flags: u8,
    key_len: u8,
    key: [u8; LONGEST_KEY],
}

/// `struct tcp_ao_del`.
#[repr(C, align(8))]
struct AoDelete {
    address: Address,
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix: u8,
    send_id: u8,
    receive_id: u8,
    current_key: u8,
    next_key: u8,
    key_flags: u8,
}

fn set<T>(socket: &impl AsFd, (level, name): (libc::c_int, libc::c_int), value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as the borrow lasts; the kernel reads `length` octets, which is the size
    // of `value`, a plain value without references that outlives the call.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn key_octets(key: &Secret) -> io::Result<([u8; LONGEST_KEY], u8)> {
    let text = key.reveal().as_bytes();
    let wrong = || {
        let words = format!("the password has {} octets: TCP takes 1 to {LONGEST_KEY}", text.len());
        io::Error::new(io::ErrorKind::InvalidInput, words)
    };
    let length = u8::try_from(text.len()).map_err(|_| wrong())?;
    let mut octets = [0; LONGEST_KEY];
    if text.is_empty() {
        return Err(wrong());
    }
    octets.get_mut(..text.len()).ok_or_else(wrong)?.copy_from_slice(text);
    Ok((octets, length))
}

/// Gives a socket the key that proves a peer's segments: a listener one for each peer, a connection its own.
/// A key that it has already is replaced.
///
/// # Errors
/// If the key is too long or empty, or the kernel does not know this kind.
pub(in crate::speaker) fn set_key(socket: &impl AsFd, peer: IpAddr, auth: &Auth) -> io::Result<()> {
    match auth {
        Auth::Md5(key) => {
            let (key, length) = key_octets(key)?;
            set_md5(socket, peer, (key, length))
        }
        Auth::Ao { key, id } => {
            let (key, key_len) = key_octets(key)?;
            let mut algorithm = [0; 64];
            algorithm[..10].copy_from_slice(b"hmac(sha1)");
            let value = AoAdd {
                address: Address::of(peer),
                algorithm,
                ifindex: 0,
                // set_current and set_rnext are for connections only: a socket with one key uses it.
                flags: 0,
                reserved: 0,
                prefix: if peer.is_ipv4() { 32 } else { 128 },
                send_id: *id,
                receive_id: *id,
                mac_len: 12,
                key_flags: 0,
                key_len,
                key,
            };
            set(socket, (libc::IPPROTO_TCP, TCP_AO_ADD_KEY), &value).map_err(|error| {
                if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
                    let words = "this kernel has no TCP-AO (CONFIG_TCP_AO): use an MD5 password instead";
                    return io::Error::new(io::ErrorKind::Unsupported, words);
                }
                error
            })
        }
    }
}

fn set_md5(socket: &impl AsFd, peer: IpAddr, (key, length): ([u8; LONGEST_KEY], u8)) -> io::Result<()> {
    let value = Md5 { address: Address::of(peer), flags: 0, prefix_len: 0, key_len: length.into(), ifindex: 0, key };
    set(socket, (libc::IPPROTO_TCP, libc::TCP_MD5SIG), &value)
}

/// Takes a key back. One that is not there is no error.
pub(in crate::speaker) fn remove_key(socket: &impl AsFd, peer: IpAddr, auth: &Auth) -> io::Result<()> {
    let result = match auth {
        Auth::Md5(_) => set_md5(socket, peer, ([0; LONGEST_KEY], 0)),
        Auth::Ao { id, .. } => {
            let value = AoDelete {
                address: Address::of(peer),
                ifindex: 0,
                flags: 0,
                reserved: 0,
                prefix: if peer.is_ipv4() { 32 } else { 128 },
                send_id: *id,
                receive_id: *id,
                current_key: 0,
                next_key: 0,
                key_flags: 0,
            };
            set(socket, (libc::IPPROTO_TCP, TCP_AO_DEL_KEY), &value)
        }
    };
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// What a socket sends with (`None`: the kernel's default) and the least TTL it takes (0: any).
pub(in crate::speaker) fn set_ttl(socket: &impl AsFd, peer: IpAddr, (send, least): (Option<u8>, u8)) -> io::Result<()> {
    let send = send.map_or(-1, libc::c_int::from);
    let least = libc::c_int::from(least);
    match peer {
        IpAddr::V4(_) => {
            set(socket, (libc::IPPROTO_IP, libc::IP_TTL), &send)?;
            set(socket, (libc::IPPROTO_IP, libc::IP_MINTTL), &least)
        }
        IpAddr::V6(_) => {
            set(socket, (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS), &send)?;
            set(socket, (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT), &least)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Protocol, Socket, Type};
    use std::net::SocketAddr;

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!((size_of::<Md5>(), size_of::<AoAdd>(), size_of::<AoDelete>()), (216, 288, 144));
        let address: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let theirs = socket2::SockAddr::from(address);
        // SAFETY: a socket address of this length is initialised that far.
        let octets = unsafe { std::slice::from_raw_parts(theirs.as_ptr().cast::<u8>(), 8) };
        assert_eq!(&Address::of(address.ip()).0[..8], octets);
    }

    #[test]
    fn a_key_is_set_replaced_and_removed_and_a_wrong_one_is_refused_in_words() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let md5 = |key: &str| Auth::Md5(Secret::new(key));
        for key in ["a", "b", &"x".repeat(80)] {
            set_key(&socket, peer, &md5(key)).unwrap();
        }
        remove_key(&socket, peer, &md5("")).unwrap();
        remove_key(&socket, peer, &md5("")).unwrap();
        for key in ["", &"x".repeat(81)] {
            let error = set_key(&socket, peer, &md5(key)).unwrap_err().to_string();
            assert!(error.contains("1 to 80"), "{error}");
        }
        // Where the kernel has no TCP-AO it is said so; where it has, the key is taken.
        let ao = Auth::Ao { key: Secret::new("secret"), id: 1 };
        if let Err(error) = set_key(&socket, peer, &ao) {
            assert!(error.to_string().contains("no TCP-AO"), "{error}");
        }
    }
}
