//! Which instructions the CPU kernels may use, found once at run time; never a compile-time `target-cpu`.
//!
//! Every path computes the same bits (`docs/arithmetic.md`), so the choice is one of speed only. Tests call each path
//! the machine has by name.

use std::sync::OnceLock;

/// A family of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Scalar Rust, whatever the machine. On aarch64, where fused multiply-add is part of the baseline, the compiler turns
    /// the same loops into NEON.
    Portable,
    /// x86-64 with AVX2, FMA and F16C (Haswell and Zen onwards).
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL (Skylake-SP and Zen 4 onwards).
    Avx512,
}

impl Isa {
    /// Every path this machine can run, slowest first.
    pub fn available() -> &'static [Isa] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            #[allow(unused_mut)] // only x86-64 has more than one
            let mut found = vec![Isa::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::is_x86_feature_detected as has;
                if has!("avx2") && has!("fma") && has!("f16c") {
                    found.push(Isa::Avx2);
                    if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                        found.push(Isa::Avx512);
                    }
                }
            }
            found
        })
    }

    /// The fastest path of this machine.
    pub fn best() -> Isa {
        *Isa::available().last().expect("the portable path is always there")
    }

    /// Name for logs and benchmark tables.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable if cfg!(target_arch = "aarch64") => "neon",
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

/// Compiles a function once per instruction set and picks one at run time.
///
/// The body must be made of `#[inline(always)]` pieces: it is inlined into one `#[target_feature]` wrapper per set, where
/// LLVM vectorises the same sequence of operations and `mul_add` becomes one instruction instead of a call into libm.
/// IEEE operations are exact functions, so vectorising over independent elements cannot change a bit.
macro_rules! per_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident $([$($generic:tt)*])? ($isa:ident $(, $arg:ident : $ty:ty)* $(,)?) $(-> $ret:ty)? = $body:expr) => {
        $(#[$doc])*
        $vis fn $name $(<$($generic)*>)? ($isa: $crate::engine::kernels::isa::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512 $(<$($generic)*>)? ($($arg: $ty),*) $(-> $ret)? { $body }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$($generic)*>)? ($($arg: $ty),*) $(-> $ret)? { $body }
            fn portable $(<$($generic)*>)? ($($arg: $ty),*) $(-> $ret)? { $body }
            assert!($isa.is_available(), "{} is not available on this machine", $isa.name());
            match $isa {
                // SAFETY: `is_available` has just confirmed these features.
                #[cfg(target_arch = "x86_64")]
                $crate::engine::kernels::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::engine::kernels::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => portable($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;

impl Isa {
    /// Whether this machine can run the path.
    pub fn is_available(self) -> bool {
        Isa::available().contains(&self)
    }
}

/// Puts this thread's floating-point unit into the mode the arithmetic is defined for: round to nearest even, subnormals
/// kept.
///
/// Rust assumes that mode already, but a library of another language loaded into the process may have left flush-to-zero
/// or another rounding mode behind on a pool thread, and the price of that would be a slashed stake. Costs a few cycles.
#[inline]
pub fn default_float_mode() {
    #[cfg(target_arch = "x86_64")]
    {
        const DEFAULT: u32 = 0x1f80; // all exceptions masked, nearest, no FTZ, no DAZ
        const FLAGS: u32 = 0x003f; // sticky exception flags: set by ordinary work, of no effect
        let mut mxcsr: u32 = 0;
        // SAFETY: stores the control register into a local; touches nothing else.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack, preserves_flags)) };
        if mxcsr & !FLAGS != DEFAULT {
            // SAFETY: loads the value that Rust requires the register to have.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &DEFAULT, options(nostack, preserves_flags)) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let fpcr: u64;
        // SAFETY: reads the control register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack, preserves_flags)) };
        if fpcr != 0 {
            // SAFETY: loads the value that Rust requires the register to have.
            unsafe { std::arch::asm!("msr fpcr, {}", in(reg) 0u64, options(nomem, nostack, preserves_flags)) };
        }
    }
}
