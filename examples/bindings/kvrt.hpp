// kvrt.hpp - kvrt for C++17: handles that close themselves, errors as exceptions, callbacks as functions. Header only; link kvrt::kvrt.
//
//     kvrt::Options options;
//     options.set("model.path", path);
//     kvrt::Engine engine(options);
//     kvrt::Session session(engine);
//     session.sync(engine.tokenize("Once upon a time"));
//     session.generate([](std::string_view text) { std::cout << text; return true; });
#ifndef KVRT_HPP
#define KVRT_HPP
#include <kvrt.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvrt
{

class Error : public std::runtime_error
{
  public:
    explicit Error(const kvrt_error &error)
        : std::runtime_error(error.message), code(static_cast<kvrt_status>(error.code))
    {
    }
    kvrt_status code;
};

// Calls f(arguments..., &error) and throws what it says; a status that is no error is returned.
template <typename F, typename... A> kvrt_status call(F f, A... arguments)
{
    kvrt_error error{};
    error.size = sizeof error;
    const kvrt_status status = f(arguments..., &error);
    if (status < KVRT_OK) throw Error(error);
    return status;
}

class Options
{
  public:
    Options() { call(kvrt_options_create, &handle_); }
    Options(const Options &other)
    {
        call(kvrt_options_clone, static_cast<const kvrt_options *>(other.handle_), &handle_);
    }
    Options(Options &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Options &operator=(Options other) noexcept
    {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Options() { kvrt_options_destroy(handle_); }
    Options &set(const std::string &key, const std::string &text)
    {
        call(kvrt_options_set_text, handle_, key.c_str(), text.c_str());
        return *this;
    }
    const kvrt_options *get() const { return handle_; }

  private:
    kvrt_options *handle_ = nullptr;
};

class Engine
{
  public:
    explicit Engine(const Options &options, kvrt_event_fn progress = nullptr, void *user = nullptr)
    {
        call(kvrt_engine_open, options.get(), progress, user, &handle_);
    }
    Engine(Engine &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Engine &operator=(Engine &&other) noexcept
    {
        std::swap(handle_, other.handle_);
        return *this;
    }
    // Sessions that are still open are closed with it; closing them afterwards is harmless.
    ~Engine()
    {
        if (handle_) (void)kvrt_engine_close(handle_, nullptr);
    }
    std::vector<std::int32_t> tokenize(std::string_view text, std::uint32_t flags = KVRT_TOKENIZE_ADD_SPECIAL) const
    {
        std::vector<std::int32_t> ids(text.size() + 16);
        std::uint64_t n = 0;
        call(kvrt_tokenize, handle_, text.data(), static_cast<std::int64_t>(text.size()), flags, ids.data(),
             static_cast<std::uint64_t>(ids.size()), &n);
        ids.resize(n);
        return ids;
    }
    // For about this long; false when no request is left.
    bool step(std::uint64_t budget_us) { return call(kvrt_step, handle_, budget_us) != KVRT_DONE; }
    // Gives every event of submitted requests to f(const kvrt_event &).
    template <typename F> void poll(F f)
    {
        kvrt_event event{};
        for (event.size = sizeof event; call(kvrt_poll, handle_, &event) == KVRT_OK;) f(event);
    }
    kvrt_engine get() const { return handle_; }

  private:
    kvrt_engine handle_ = nullptr;
};

class Session
{
  public:
    explicit Session(const Engine &engine)
    {
        call(kvrt_session_create, engine.get(), static_cast<const kvrt_options *>(nullptr), &handle_);
    }
    Session(const Engine &engine, const Options &options)
    {
        call(kvrt_session_create, engine.get(), options.get(), &handle_);
    }
    Session(Session &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Session &operator=(Session &&other) noexcept
    {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Session()
    {
        if (handle_) (void)kvrt_session_close(handle_, nullptr);
    }
    Session fork() const
    {
        Session other;
        call(kvrt_session_fork, handle_, &other.handle_);
        return other;
    }
    std::uint64_t sync(const std::vector<std::int32_t> &ids)
    {
        std::uint64_t reused = 0;
        call(kvrt_session_sync, handle_, ids.data(), static_cast<std::uint64_t>(ids.size()), &reused);
        return reused;
    }
    // on_text(text) answers whether to go on. What it throws ends the generation and is thrown again.
    kvrt_result generate(const std::function<bool(std::string_view)> &on_text, const Options *options = nullptr)
    {
        struct State {
            const std::function<bool(std::string_view)> &on_text;
            std::exception_ptr thrown;
        } state{on_text, nullptr};
        kvrt_result result{};
        result.size = sizeof result;
        const kvrt_event_fn fn = [](const kvrt_event *event, void *user) -> std::int32_t {
            State &s = *static_cast<State *>(user);
            if (event->type != KVRT_EVENT_TEXT) return KVRT_CONTINUE;
            try {
                return s.on_text({event->text, event->text_len}) ? KVRT_CONTINUE : KVRT_STOP;
            } catch (...) { // nothing may be thrown through C
                s.thrown = std::current_exception();
                return KVRT_STOP;
            }
        };
        call(kvrt_generate, handle_, options ? options->get() : static_cast<const kvrt_options *>(nullptr), fn,
             static_cast<void *>(&state), &result);
        if (state.thrown) std::rethrow_exception(state.thrown);
        return result;
    }
    std::uint64_t submit(const Options *options = nullptr)
    {
        std::uint64_t request = 0;
        call(kvrt_submit, handle_, options ? options->get() : static_cast<const kvrt_options *>(nullptr), &request);
        return request;
    }
    void rewind(std::uint64_t n) { call(kvrt_session_rewind, handle_, n); }
    void save(const std::string &path, std::uint32_t flags = 0) const
    {
        call(kvrt_session_save, handle_, path.c_str(), flags);
    }
    void load(const std::string &path, std::uint32_t flags = 0)
    {
        call(kvrt_session_load, handle_, path.c_str(), flags);
    }
    kvrt_session_info info() const
    {
        kvrt_session_info info{};
        info.size = sizeof info;
        call(kvrt_session_get_info, handle_, &info);
        return info;
    }
    kvrt_session get() const { return handle_; }

  private:
    Session() = default;
    kvrt_session handle_ = nullptr;
};

} // namespace kvrt
#endif
