;; A core module that exports neither run nor _start.
(module (memory (export "memory") 1))
