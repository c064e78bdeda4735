//! Sockets in a network namespace that belongs to a user namespace of ours. The threads of a process cannot enter a user
//! namespace, so a helper that has entered it makes the sockets and hands them over.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};

use super::process::python;

const HELPER: &str = include_str!("inside.py");

/// The helper, and our end of the socket that it listens to.
#[derive(Debug)]
pub(super) struct Owned {
    /// `None` once dropped: its end is what ends the helper.
    ours: Mutex<Option<OwnedFd>>,
    helper: Child,
}

impl Owned {
    /// Enters the namespaces of a process.
    pub(super) fn enter(pid: i32) -> io::Result<Self> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &pid.to_string(),
            "--user",
            "--net",
            "--preserve-credentials",
        ]);
        command
            .args([python(), "-I", "-S", "-c", HELPER])
            .current_dir("/");
        let helper = command
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            ours: Mutex::new(Some(ours)),
            helper,
        })
    }

    /// Asks for something; a socket comes back where one was asked for.
    pub(super) fn ask(&self, request: &str) -> io::Result<Option<OwnedFd>> {
        let ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ours) = ours.as_ref() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        // A helper that has died is an error here, not a signal.
        rustix::net::send(ours, request.as_bytes(), SendFlags::NOSIGNAL)?;
        let mut text = [0; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let answer =
            rustix::net::recvmsg(ours, &mut [IoSliceMut::new(&mut text)], &mut rights, flags)?;
        let socket = rights.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        match &text[..answer.bytes] {
            b"ok" => Ok(socket),
            b"" => Err(io::Error::other("the helper inside has ended")),
            said => Err(io::Error::other(String::from_utf8_lossy(said).into_owned())),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.ours
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let _status = self.helper.wait();
    }
}
