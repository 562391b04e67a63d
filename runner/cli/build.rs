//! Lays the program out so that its code can lie on large pages.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Every segment begins where a 2 MiB page may: see `image.rs` of wrun-process. The kernel
    // then loads the program at a multiple of that, too.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,max-page-size=0x200000");
}
