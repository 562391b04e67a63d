//! Compresses stdin to stdout as gzip; `gzip -d` does the reverse. Streams: the
//! memory it needs does not depend on the input.

const std = @import("std");
const flate = std.compress.flate;

/// Buffers as globals: a guest's stack is small.
var in_buffer: [64 * 1024]u8 = undefined;
var out_buffer: [64 * 1024]u8 = undefined;
var window: [flate.max_window_len]u8 = undefined;

pub fn main(init: std.process.Init) u8 {
    const args = init.minimal.args.toSlice(init.arena.allocator()) catch return 2;
    const decompress = args.len == 2 and std.mem.eql(u8, args[1], "-d");
    if (args.len > 1 and !decompress) {
        std.debug.print("usage: gzip [-d] < input > output\n", .{});
        return 2;
    }
    var in = std.Io.File.stdin().readerStreaming(init.io, &in_buffer);
    var out = std.Io.File.stdout().writerStreaming(init.io, &out_buffer);
    const result = if (decompress)
        expand(&in.interface, &out.interface)
    else
        compress(&in.interface, &out.interface);
    result catch |failure| {
        std.debug.print("gzip: {s}\n", .{@errorName(failure)});
        return 1;
    };
    return 0;
}

fn compress(in: *std.Io.Reader, out: *std.Io.Writer) !void {
    var deflate = try flate.Compress.init(out, &window, .gzip, .default);
    _ = try in.streamRemaining(&deflate.writer);
    try deflate.finish();
    try out.flush();
}

fn expand(in: *std.Io.Reader, out: *std.Io.Writer) !void {
    var inflate = flate.Decompress.init(in, .gzip, &window);
    _ = inflate.reader.streamRemaining(out) catch |failure| {
        // "ReadFailed" alone does not say what is wrong with the input
        return inflate.err orelse failure;
    };
    try out.flush();
}
