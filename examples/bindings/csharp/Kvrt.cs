// Kvrt.cs - kvrt for C# and Unity: one file over P/Invoke, no unsafe code. The polling pattern of a game: Update() steps the engine for a part of the
// frame and takes the events; nothing blocks, no callback comes from another thread.
//
//     using (var engine = new Kvrt.Engine("path/of/a/model", "ctx.sessions=2"))
//     using (var session = engine.CreateSession("gen.max_tokens=40"))
//     {
//         session.Sync(engine.Tokenize("Once upon a time"));
//         var answer = session.Submit();
//         while (!answer.IsOver) engine.Update(2000, e => Console.Write(e.Text));   // 2 ms a frame
//     }
//
// In Unity: put this file and the library (libkvrt.so) under Assets/Plugins, and call Update from MonoBehaviour.Update.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Text;

namespace Kvrt
{
    public sealed class KvrtException : Exception
    {
        public readonly int Code;
        internal KvrtException(int code, string message) : base(message) { Code = code; }
    }

    public enum EventType { Prefill = 2, Text = 3, Reasoning = 4, Token = 5, Done = 7, Error = 8, Demoted = 9, Shifted = 10 }
    public enum Finish { None, Eos, Stop, Length, CtxFull, Cancelled, Callback, Paused }

    /// What a submitted request says.
    public struct Event
    {
        public EventType Type;
        public ulong Request;
        public string Text; // whole characters; of Done what still waited, of Error why
        public Finish Finish;
        public ulong Done, Total;
    }

    internal static class Native
    {
        internal const string Library = "kvrt"; // libkvrt.so on Linux

        [StructLayout(LayoutKind.Sequential)]
        internal struct Error
        {
            internal uint Size;
            internal int Code, Extended, SystemCode;
            internal ulong NeededBytes, AvailableBytes;
            [MarshalAs(UnmanagedType.ByValArray, SizeConst = 512)] internal byte[] Message;
        }

        [StructLayout(LayoutKind.Sequential)]
        internal struct RawEvent
        {
            internal uint Size;
            internal int Type;
            internal ulong Request;
            internal IntPtr Text;
            internal ulong TextLength, Done, Total;
            internal int Token, Finish, Status;
            internal float LogProbability;
        }

        [DllImport(Library)] internal static extern int kvrt_abi_check(uint abi);
        [DllImport(Library)] internal static extern int kvrt_options_create(out IntPtr options, ref Error error);
        [DllImport(Library)] internal static extern void kvrt_options_destroy(IntPtr options);
        [DllImport(Library)] internal static extern int kvrt_options_set_text(IntPtr options, byte[] key, byte[] text, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_engine_open(IntPtr options, IntPtr fn, IntPtr user, out IntPtr engine, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_engine_close(IntPtr engine, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_tokenize(IntPtr engine, byte[] text, long length, uint flags, int[] ids, ulong cap,
                                                                      out ulong n, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_create(IntPtr engine, IntPtr options, out IntPtr session, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_close(IntPtr session, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_sync(IntPtr session, int[] ids, ulong n, out ulong reused, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_fork(IntPtr session, out IntPtr fork, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_rewind(IntPtr session, ulong n, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_tokens(IntPtr session, int[] ids, ulong cap, out ulong n, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_save(IntPtr session, byte[] path, uint flags, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_session_load(IntPtr session, byte[] path, uint flags, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_submit(IntPtr session, IntPtr options, out ulong request, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_step(IntPtr engine, ulong budgetUs, ref Error error);
        [DllImport(Library)] internal static extern int kvrt_poll(IntPtr engine, ref RawEvent e, ref Error error);
        [DllImport(Library)] internal static extern void kvrt_cancel_id(ulong request);

        internal static Error NewError()
        {
            return new Error { Size = (uint)Marshal.SizeOf(typeof(Error)), Message = new byte[512] };
        }

        internal static byte[] Utf8(string text) { return Encoding.UTF8.GetBytes(text + "\0"); }

        internal static int Check(int status, ref Error error)
        {
            if (status >= 0) return status;
            int n = error.Message == null ? 0 : Array.IndexOf(error.Message, (byte)0);
            throw new KvrtException(status, n > 0 ? Encoding.UTF8.GetString(error.Message, 0, n) : "status " + status);
        }

        /// From "key=value" pairs; the caller destroys it.
        internal static IntPtr Options(IEnumerable<string> pairs)
        {
            Error error = NewError();
            IntPtr options;
            Check(kvrt_options_create(out options, ref error), ref error);
            try
            {
                foreach (string pair in pairs)
                {
                    int at = pair.IndexOf('=');
                    if (at < 0) throw new ArgumentException("an option is KEY=VALUE: " + pair);
                    Check(kvrt_options_set_text(options, Utf8(pair.Substring(0, at)), Utf8(pair.Substring(at + 1)), ref error), ref error);
                }
            }
            catch
            {
                kvrt_options_destroy(options);
                throw;
            }
            return options;
        }
    }

    /// A submitted request; over when its last event was seen by Engine.Update.
    public sealed class Request
    {
        public readonly ulong Id;
        public bool IsOver { get; internal set; }
        public Finish Finish { get; internal set; }
        public string Failure { get; internal set; } // null: none
        internal Request(ulong id) { Id = id; }
        public void Cancel() { Native.kvrt_cancel_id(Id); }
    }

    public sealed class Engine : IDisposable
    {
        internal IntPtr Handle;
        private readonly Dictionary<ulong, Request> running = new Dictionary<ulong, Request>();

        public Engine(string model, params string[] options)
        {
            if (Native.kvrt_abi_check(2) < 0) throw new KvrtException(-23, "the library is another than this file was written for");
            var pairs = new List<string>(options);
            pairs.Insert(0, "model.path=" + model);
            Native.Error error = Native.NewError();
            IntPtr o = Native.Options(pairs);
            try { Native.Check(Native.kvrt_engine_open(o, IntPtr.Zero, IntPtr.Zero, out Handle, ref error), ref error); }
            finally { Native.kvrt_options_destroy(o); }
        }

        public void Dispose()
        {
            Native.Error error = Native.NewError();
            if (Handle != IntPtr.Zero) Native.kvrt_engine_close(Handle, ref error);
            Handle = IntPtr.Zero;
        }

        public int[] Tokenize(string text)
        {
            Native.Error error = Native.NewError();
            byte[] bytes = Encoding.UTF8.GetBytes(text);
            var ids = new int[bytes.Length + 16];
            ulong n;
            Native.Check(Native.kvrt_tokenize(Handle, bytes, bytes.Length, 1, ids, (ulong)ids.Length, out n, ref error), ref error);
            Array.Resize(ref ids, (int)n);
            return ids;
        }

        public Session CreateSession(params string[] options)
        {
            Native.Error error = Native.NewError();
            IntPtr o = Native.Options(options), handle;
            try { Native.Check(Native.kvrt_session_create(Handle, o, out handle, ref error), ref error); }
            finally { Native.kvrt_options_destroy(o); }
            return new Session(this, handle);
        }

        internal Request Begin(ulong id)
        {
            return running[id] = new Request(id);
        }

        /// Computes for about so many microseconds and hands out what was said. True: there is more to do.
        public bool Update(ulong budgetUs, Action<Event> listener)
        {
            Native.Error error = Native.NewError();
            int status = Native.Check(Native.kvrt_step(Handle, budgetUs, ref error), ref error);
            var raw = new Native.RawEvent { Size = (uint)Marshal.SizeOf(typeof(Native.RawEvent)) };
            while (Native.Check(Native.kvrt_poll(Handle, ref raw, ref error), ref error) == 0) Take(ref raw, listener);
            return status != 2;
        }

        private void Take(ref Native.RawEvent raw, Action<Event> listener)
        {
            var text = new byte[raw.TextLength];
            if (text.Length > 0) Marshal.Copy(raw.Text, text, 0, text.Length);
            var e = new Event
            {
                Type = (EventType)raw.Type,
                Request = raw.Request,
                Text = Encoding.UTF8.GetString(text),
                Finish = (Finish)raw.Finish,
                Done = raw.Done,
                Total = raw.Total
            };
            Request request;
            if ((e.Type == EventType.Done || e.Type == EventType.Error) && running.TryGetValue(e.Request, out request))
            {
                request.IsOver = true;
                request.Finish = e.Finish;
                request.Failure = e.Type == EventType.Error ? e.Text : null;
                running.Remove(e.Request);
            }
            if (listener != null) listener(e);
        }
    }

    public sealed class Session : IDisposable
    {
        private readonly Engine engine;
        private IntPtr handle;
        internal Session(Engine engine, IntPtr handle) { this.engine = engine; this.handle = handle; }

        public void Dispose()
        {
            Native.Error error = Native.NewError();
            if (handle != IntPtr.Zero) Native.kvrt_session_close(handle, ref error); // of a closed engine: harmless
            handle = IntPtr.Zero;
        }

        /// Makes the session equal to this list; returns how many of its tokens are there already.
        public ulong Sync(int[] ids)
        {
            Native.Error error = Native.NewError();
            ulong reused;
            Native.Check(Native.kvrt_session_sync(handle, ids, (ulong)ids.Length, out reused, ref error), ref error);
            return reused;
        }

        public int[] Tokens()
        {
            Native.Error error = Native.NewError();
            ulong n;
            Native.Check(Native.kvrt_session_tokens(handle, null, 0, out n, ref error), ref error);
            var ids = new int[n];
            Native.Check(Native.kvrt_session_tokens(handle, ids, n, out n, ref error), ref error);
            return ids;
        }

        public Session Fork()
        {
            Native.Error error = Native.NewError();
            IntPtr fork;
            Native.Check(Native.kvrt_session_fork(handle, out fork, ref error), ref error);
            return new Session(engine, fork);
        }

        public void Rewind(ulong n)
        {
            Native.Error error = Native.NewError();
            Native.Check(Native.kvrt_session_rewind(handle, n, ref error), ref error);
        }

        public void Save(string path)
        {
            Native.Error error = Native.NewError();
            Native.Check(Native.kvrt_session_save(handle, Native.Utf8(path), 0, ref error), ref error);
        }

        public void Load(string path)
        {
            Native.Error error = Native.NewError();
            Native.Check(Native.kvrt_session_load(handle, Native.Utf8(path), 0, ref error), ref error);
        }

        public Request Submit(params string[] options)
        {
            Native.Error error = Native.NewError();
            ulong id;
            IntPtr o = Native.Options(options);
            try { Native.Check(Native.kvrt_submit(handle, o, out id, ref error), ref error); }
            finally { Native.kvrt_options_destroy(o); }
            return engine.Begin(id);
        }
    }
}
