// Frames.cs - a game loop in C#: Frames MODEL TEXT. Two characters begin with one text; each frame the model has 2 ms. Then one is saved, goes on, is
// loaded again and says the same; and a request is cancelled.
using System;
using System.Collections.Generic;
using System.IO;
using System.Text;

static class Frames
{
    static readonly Dictionary<ulong, StringBuilder> said = new Dictionary<ulong, StringBuilder>();

    static void Listen(Kvrt.Event e)
    {
        if (!said.ContainsKey(e.Request)) said[e.Request] = new StringBuilder();
        if (e.Type == Kvrt.EventType.Text || e.Type == Kvrt.EventType.Done) said[e.Request].Append(e.Text);
    }

    static string Answer(Kvrt.Engine engine, Kvrt.Request request, int cancelAfter)
    {
        for (int frames = 1; !request.IsOver; frames++)
        {
            engine.Update(2000, Listen);
            if (frames == cancelAfter) request.Cancel();
        }
        if (request.Failure != null) throw new InvalidOperationException(request.Failure);
        return said[request.Id].ToString();
    }

    static int Main(string[] args)
    {
        if (args.Length != 2)
        {
            Console.Error.WriteLine("usage: Frames MODEL TEXT");
            return 2;
        }
        try
        {
            using (var engine = new Kvrt.Engine(args[0], "ctx.sessions=2", "device.backend=cpu"))
            using (var one = engine.CreateSession("sample.temperature=0", "gen.max_tokens=24"))
            {
                one.Sync(engine.Tokenize(args[1]));
                using (var two = one.Fork())
                {
                    var a = one.Submit();
                    var b = two.Submit();
                    string first = Answer(engine, a, 0), second = Answer(engine, b, 0);
                    Console.WriteLine(first);
                    Console.WriteLine("the fork says " + (first == second ? "the same" : "something else"));
                    string path = Path.GetTempFileName();
                    one.Save(path);
                    string then = Answer(engine, one.Submit(), 0);
                    two.Load(path);
                    File.Delete(path);
                    Console.WriteLine("saved and loaded: " + (Answer(engine, two.Submit(), 0) == then ? "the same" : "not the same"));
                    var endless = two.Submit("gen.max_tokens=-1", "gen.ignore_eos=true");
                    Answer(engine, endless, 2);
                    Console.WriteLine("cancelled: " + endless.Finish);
                    Console.WriteLine(one.Tokens().Length + " tokens");
                }
            }
            return 0;
        }
        catch (Kvrt.KvrtException e)
        {
            Console.Error.WriteLine(e.Message);
            return 1;
        }
    }
}
