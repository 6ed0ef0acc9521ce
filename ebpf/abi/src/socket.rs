//! Socket LB of the host: the original destination of a translated socket, for `recvmsg` and
//! `getpeername`.

use crate::Port;
use crate::pod::family_pod;

family_pod! {
    /// Key of `sock4/6`.
    pub struct SockKey<A> {
        /// Cookie of the socket, low and high word.
        pub cookie: [u32; 2],
        /// Backend.
        pub addr: A,
        pub port: Port,
        pub reserved: u16,
    }
}

family_pod! {
    /// Value of `sock4/6`: where the program wanted to go.
    pub struct SockValue<A> {
        pub addr: A,
        pub port: Port,
        pub reserved: u16,
        pub svc_id: u32,
        pub be_ix: u32,
    }
}
