;; Throws a WebAssembly exception that is not caught.
(module
  (memory (export "memory") 1)
  (tag $oops)
  (func (export "_start")
    (throw $oops)))
