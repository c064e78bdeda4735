//! The way into a machine's network and out of it. A socket belongs to the network namespace in which it was made, not
//! to the process that holds it: so a thread steps inside, makes the socket, and hands it out. Nothing runs inside.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::owned::Owned;

/// Loopback answers at once, or its listener's queue is full.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a machine's ports are.
#[derive(Clone, Debug)]
pub(super) enum Inside {
    /// In a network namespace that this process may enter.
    Namespace(Arc<File>),
    /// In one that belongs to a user namespace of ours.
    Owned(Arc<Owned>),
    /// On our own loopback; sshd has this port instead of 22.
    Here { sshd: u16 },
}

impl Inside {
    /// The network namespace of a process.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        Ok(Self::Namespace(Arc::new(File::open(format!(
            "/proc/{pid}/ns/net"
        ))?)))
    }

    /// Likewise, where a user namespace is between us and it.
    pub(super) fn of_user(pid: i32) -> io::Result<Self> {
        Ok(Self::Owned(Arc::new(Owned::enter(pid)?)))
    }

    /// Connects to a port of the machine's loopback.
    pub(super) fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match self {
            Self::Namespace(namespace) => enter(namespace, move || {
                TcpStream::connect_timeout(&at(port), CONNECT)
            }),
            Self::Owned(owned) => {
                Ok(socket(owned.ask(&format!("connect 127.0.0.1 {port}"))?)?.into())
            }
            Self::Here { sshd } if port == 22 => TcpStream::connect_timeout(&at(*sshd), CONNECT),
            Self::Here { .. } => TcpStream::connect_timeout(&at(port), CONNECT),
        }
    }

    /// Listens at an address of the machine's loopback.
    pub(super) fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        match self {
            Self::Namespace(namespace) => enter(namespace, move || TcpListener::bind(address)),
            Self::Owned(owned) => {
                Ok(
                    socket(owned.ask(&format!("listen {} {}", address.ip(), address.port()))?)?
                        .into(),
                )
            }
            Self::Here { .. } => TcpListener::bind(address),
        }
    }

    /// Brings the loopback interface up: a new network namespace has it down, and nothing else.
    pub(super) fn raise_loopback(&self) -> io::Result<()> {
        match self {
            Self::Namespace(namespace) => enter(namespace, raise_loopback),
            Self::Owned(owned) => owned.ask("up").map(drop),
            Self::Here { .. } => Ok(()),
        }
    }
}

fn socket(answer: Option<OwnedFd>) -> io::Result<OwnedFd> {
    answer.ok_or_else(|| io::Error::other("no socket came with the answer"))
}

/// Does something on a thread that is inside.
fn enter<T: Send + 'static>(
    namespace: &Arc<File>,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = namespace.clone();
    let inside = std::thread::Builder::new()
        .name("inside".into())
        .spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            act()
        })?;
    inside
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread inside panicked")))
}

/// `RTM_NEWLINK` for interface 1 (always `lo`) with `IFF_UP`: struct nlmsghdr and struct ifinfomsg of rtnetlink(7).
fn raise_loopback() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const LO: i32 = 1;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence, port id
    message.extend([0; 4]); // family, padding, type
    message.extend(LO.to_ne_bytes());
    message.extend(UP.to_ne_bytes()); // flags
    message.extend(UP.to_ne_bytes()); // which of them change
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 64];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // After the header (16 bytes) stands the negated errno, 0 when it was done.
    match answer
        .get(16..20)
        .filter(|_| length >= 20)
        .map(|code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]))
    {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("rtnetlink answered too little")),
    }
}
