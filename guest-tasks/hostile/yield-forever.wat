;; Yields the processor endlessly: many host calls, no progress.
(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $more (drop (call $yield)) (br $more))))
