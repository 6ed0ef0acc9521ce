//! The one way a map type becomes `bytemuck::Pod`: `repr(C)` and a proof at compile time that the
//! fields' sizes add up to the struct's size, so there is no padding. For types generic over the address
//! family, which `bytemuck`'s derive refuses, the proof is made for both families.

/// Declares a family-generic map type and proves it has no padding.
macro_rules! family_pod {
    ($(#[$meta:meta])* pub struct $name:ident<A> {
        $($(#[$fmeta:meta])* pub $field:ident: $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name<A: crate::Addr> {
            $($(#[$fmeta])* pub $field: $ty,)*
        }

        const _: () = {
            type A = crate::V4;
            assert!(size_of::<$name<A>>() == 0 $(+ size_of::<$ty>())*);
        };
        const _: () = {
            type A = crate::V6;
            assert!(size_of::<$name<A>>() == 0 $(+ size_of::<$ty>())*);
        };

        // SAFETY: all fields are Pod (required below), so all zeroes is a valid value.
        unsafe impl<A: crate::Addr> bytemuck::Zeroable for $name<A> {}
        // SAFETY: repr(C), every field is Pod (`all_pod` below), no padding for either family (asserts
        // above), and `Addr` is sealed to exactly those families.
        unsafe impl<A: crate::Addr> bytemuck::Pod for $name<A> {}

        const _: () = {
            const fn all_pod<T: bytemuck::Pod>() {}
            #[allow(dead_code, reason = "only type-checked")]
            fn proof<A: crate::Addr>() {
                $(all_pod::<$ty>();)*
            }
        };
    };
}

pub(crate) use family_pod;
