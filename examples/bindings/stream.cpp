// stream.cpp - kvrt.hpp in use: stream MODEL PROMPT. Two sessions go on from one prompt; the second one by steps.
#include "kvrt.hpp"

#include <iostream>

int main(int argc, char **argv)
try {
    if (argc != 3) return std::cerr << "usage: stream MODEL PROMPT\n", 2;
    kvrt::Options options;
    options.set("model.path", argv[1])
        .set("gen.max_tokens", "30")
        .set("sample.temperature", "0")
        .set("ctx.sessions", "2");
    kvrt::Engine engine(options);
    kvrt::Session session(engine);
    session.sync(engine.tokenize(argv[2]));
    kvrt::Session other = session.fork();
    session.generate([](std::string_view text) { return static_cast<bool>(std::cout << text); });
    std::cout << "\n--\n";
    other.submit();
    const auto say = [](const kvrt_event &event) {
        if (event.type == KVRT_EVENT_TEXT) std::cout << std::string_view(event.text, event.text_len);
    };
    while (engine.step(5000)) engine.poll(say);
    engine.poll(say);
    std::cout << "\n";
    try {
        session.rewind(1u << 30);
    } catch (const kvrt::Error &error) {
        return error.code == KVRT_ARG ? 0 : 1;
    }
    return 1;
} catch (const std::exception &error) {
    std::cerr << "stream: " << error.what() << "\n";
    return 1;
}
