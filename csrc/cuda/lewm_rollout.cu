// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "lewm_rollout.hpp"
#include "predictor_layers.cuh"

namespace jepa_edge::cuda {

/// What does not depend on the precision; frames are counted from the context's first.
class LewmRollout::Engine {
 public:
  Engine(const PredictorWeights& weights, const Limits& limits)
      : sizes_(weights.sizes), limits_(limits), latent_(sizes_.tokens * sizes_.latent_dim) {}
  virtual ~Engine() = default;

  virtual void set_context(const Context& context, const Stream& stream) = 0;
  virtual void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
                       std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
                       cudaStream_t stream) = 0;

 protected:
  [[nodiscard]] std::size_t window_start(std::size_t frames, std::size_t step) const {
    const std::size_t end = frames + step;
    return end > sizes_.window ? end - sizes_.window : 0;
  }

  const PredictorSizes& sizes_;
  Limits limits_;
  std::size_t latent_;  ///< floats of a frame
};

namespace {

/// Recorded behind copies from page-locked memory, to be waited for before it is written again.
class Mark {
 public:
  Mark() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  ~Mark() { cudaEventDestroy(event_); }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;
  void record(const Stream& stream) { check(cudaEventRecord(event_, stream.get()), "record"); }
  void wait() { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }

 private:
  cudaEvent_t event_ = nullptr;
};

template <Precision precision>
class LewmEngine final : public LewmRollout::Engine {
 public:
  LewmEngine(const PredictorWeights& weights, const Limits& limits)
      : Engine(weights, limits),
        own_rows_(sizes_.window * limits.candidates * limits.samples * sizes_.tokens),
        shared_frames_(sizes_.window - 1),
        layers_(weights, std::max(own_rows_, shared_frames_ * sizes_.tokens),
                std::max(limits.candidates * limits.horizon, shared_frames_)),
        own_(sizes_.depth, own_rows_, layers_.attention_width()),
        modulations_(limits.candidates * limits.horizon, layers_.modulation_width()),
        shared_modulations_(shared_frames_, layers_.modulation_width()),
        history_(sizes_.window * latent_),
        past_(shared_frames_ * sizes_.action_dim),
        staged_(history_.size() + past_.size()),
        graphs_(sizes_.window + 1) {
    for (std::size_t start = 0; start < shared_frames_; ++start) {
      shared_.emplace_back(sizes_.depth, (shared_frames_ - start) * sizes_.tokens,
                           layers_.attention_width());
    }
  }

  void set_context(const Context& context, const Stream& stream) override {
    copied_.wait();
    std::copy(context.history.begin(), context.history.end(), staged_.data());
    float* past = staged_.data() + history_.size();
    std::copy(context.past_actions.begin(), context.past_actions.end(), past);
    check(cudaMemcpyAsync(history_.data(), staged_.data(), context.history.size_bytes(),
                          cudaMemcpyHostToDevice, stream.get()),
          "copy of the history");
    if (!context.past_actions.empty()) {
      check(cudaMemcpyAsync(past_.data(), past, context.past_actions.size_bytes(),
                            cudaMemcpyHostToDevice, stream.get()),
            "copy of past actions");
    }
    copied_.record(stream);
    if (context.frames < 2) return;
    Graph& graph = graphs_[context.frames];
    if (!graph) {
      share(context.frames, stream.get());  // first outside of a graph: libraries set themselves up
      graph = Graph::capture(stream, [&] { share(context.frames, stream.get()); });
    }
    graph.replay(stream);
  }

  void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
               std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
               cudaStream_t stream) override {
    layers_.modulate(actions, candidates * horizon, modulations_, stream);
    const std::size_t first_own = frames - 1;
    const std::size_t stride = horizon * latent_;  // from one future to the next
    const auto items = [&](std::size_t frame) {
      return candidates * (frame < frames ? 1 : samples);
    };
    for (std::size_t step = 0; step < horizon; ++step) {
      const std::size_t start = window_start(frames, step);
      const std::size_t end = frames + step;
      const std::size_t oldest_own = std::max(start, first_own);
      // Learned positions move with the window: then all of its own frames are computed anew.
      const bool moved = step == 0 || start != window_start(frames, step - 1);
      const bool keep = step + 1 < horizon && window_start(frames, step + 1) == start;
      const std::size_t oldest = moved ? oldest_own : end - 1;

      std::array<EarlierFrame<precision>, kMostWindow> earlier{};
      std::size_t row = 0;
      for (std::size_t frame = start; frame < oldest; ++frame) {
        if (frame < first_own) {
          earlier[frame - start] = {&shared_[start], (frame - start) * sizes_.tokens, 0};
        } else {
          earlier[frame - start] = {&own_, row, static_cast<unsigned>(items(frame) / candidates)};
          row += items(frame) * sizes_.tokens;
        }
      }
      Pass pass{};
      pass.tokens = static_cast<unsigned>(sizes_.tokens);
      pass.first_items = static_cast<unsigned>(items(oldest));
      pass.items = static_cast<unsigned>(candidates * samples);
      pass.first_share = static_cast<unsigned>(items(oldest) / candidates);
      pass.share = static_cast<unsigned>(samples);
      pass.position = static_cast<unsigned>(oldest - start);
      pass.record = static_cast<unsigned>(oldest - first_own);
      pass.record_stride = static_cast<unsigned>(horizon);
      LatentRows from{};
      const bool observed = oldest < frames;
      from.first =
          observed ? history_.data() + oldest * latent_ : latents + (oldest - frames) * latent_;
      from.first_stride = observed ? 0 : stride;
      from.later = latents + (observed ? 0 : (oldest - frames + 1) * latent_);
      from.later_stride = stride;
      from.frame = latent_;
      from.positions = layers_.positions();
      from.size = static_cast<unsigned>(sizes_.latent_dim);
      layers_.run(pass, from, end - oldest, earlier.data(), modulations_, own_, row, keep, true,
                  stream);
      emit(step, items(end - 1), candidates, samples, latents, stride, stream);
      if (noise != nullptr) {
        float* out = latents + step * latent_;
        noise->enqueue(step, candidates, samples, out, stride,
                       step > 0 ? out - latent_ : history_.data() + first_own * latent_,
                       step > 0 ? stride : 0, step > 0 ? 1 : samples,
                       actions + step * sizes_.action_dim, horizon * sizes_.action_dim, stream);
      }
    }
  }

 private:
  /// Keys and values of the frames before the newest, for windows that start at each of them:
  /// positions move with the window, so that every start needs its own.
  void share(std::size_t frames, cudaStream_t stream) {
    layers_.modulate(past_.data(), frames - 1, shared_modulations_, stream);
    for (std::size_t start = 0; start + 1 < frames; ++start) {
      if (start > window_start(frames, limits_.horizon - 1)) break;
      Pass pass{};
      pass.tokens = static_cast<unsigned>(sizes_.tokens);
      pass.first_items = pass.items = pass.first_share = pass.share = 1;
      pass.record = static_cast<unsigned>(start);
      LatentRows from{};
      from.first = history_.data() + start * latent_;
      from.later = from.first + latent_;
      from.frame = latent_;
      from.positions = layers_.positions();
      from.size = static_cast<unsigned>(sizes_.latent_dim);
      layers_.run(pass, from, frames - 1 - start, nullptr, shared_modulations_, shared_[start], 0,
                  true, false, stream);
    }
  }

  /// Hands the predicted latents on to all samples of a candidate.
  void emit(std::size_t step, std::size_t items, std::size_t candidates, std::size_t samples,
            float* latents, std::size_t stride, cudaStream_t stream) {
    const unsigned size = static_cast<unsigned>(sizes_.latent_dim);
    const unsigned tokens = static_cast<unsigned>(sizes_.tokens);
    launch(write_latents<Result<precision>>,
           {static_cast<unsigned>(items) * tokens, row_threads(size)}, stream,
           layers_.predictions(), tokens, size, static_cast<unsigned>(candidates * samples / items),
           latents + step * latent_, stride);
  }

  std::size_t own_rows_;
  std::size_t shared_frames_;  ///< most frames before the newest
  PredictorLayers<precision> layers_;
  AttentionRows<precision> own_;                  ///< of candidates
  std::vector<AttentionRows<precision>> shared_;  ///< by the window's first frame
  ModulationRows<precision> modulations_, shared_modulations_;
  DeviceBuffer<float> history_, past_;
  PinnedBuffer<float> staged_;
  Mark copied_;
  std::vector<Graph> graphs_;  ///< of share(), by frames of the context
};

bool all_finite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

}  // namespace

LewmRollout::LewmRollout(std::shared_ptr<const PredictorWeights> weights, const Limits& limits)
    : weights_(std::move(weights)), limits_(limits) {
  if (weights_ == nullptr || limits.candidates < 1 || limits.horizon < 1 || limits.samples < 1) {
    throw std::invalid_argument("a rollout needs a predictor and limits of at least 1");
  }
  const PredictorSizes& s = weights_->sizes;
  constexpr std::size_t kMost = std::size_t{1} << 28U;  // rows are counted in 32 bits
  if (limits.candidates > kMost || limits.samples > kMost || limits.horizon > kMost ||
      limits.candidates * limits.samples > kMost / (s.window * s.tokens) ||
      limits.candidates > kMost / limits.horizon) {
    throw std::invalid_argument("a rollout of " + std::to_string(limits.candidates) +
                                " candidates, " + std::to_string(limits.samples) + " samples and " +
                                std::to_string(limits.horizon) +
                                " steps has too many rows for one launch");
  }
  sizes_ = {s.window, s.tokens, s.latent_dim, s.action_dim};
  with_precision(weights_->precision, [&](auto precision) {
    engine_ = std::make_unique<LewmEngine<decltype(precision)::value>>(*weights_, limits);
  });
}
LewmRollout::~LewmRollout() = default;

Status LewmRollout::set_context(const Context& context, const Stream& stream) {
  const std::size_t T = context.frames;
  if (T < 1 || T > sizes_.window || context.batch != 1 ||
      context.history.size() != T * sizes_.tokens * sizes_.latent_dim ||
      context.past_actions.size() != (T - 1) * sizes_.action_dim) {
    return Status::kBadShape;
  }
  if (!all_finite(context.history) || !all_finite(context.past_actions)) {
    return Status::kNonFiniteInput;
  }
  engine_->set_context(context, stream);
  return Status::kOk;
}

void LewmRollout::enqueue(std::size_t frames, const float* actions, std::size_t candidates,
                          std::size_t horizon, std::size_t samples, DeviceNoise* noise,
                          float* latents, const Stream& stream) {
  if (frames < 1 || frames > sizes_.window || candidates < 1 || horizon < 1 || samples < 1 ||
      candidates > limits_.candidates || horizon > limits_.horizon || samples > limits_.samples) {
    throw std::invalid_argument(
        "a rollout of " + std::to_string(candidates) + " candidates, " + std::to_string(horizon) +
        " steps and " + std::to_string(samples) + " samples from " + std::to_string(frames) +
        " frames does not fit what was reserved: " + std::to_string(limits_.candidates) + ", " +
        std::to_string(limits_.horizon) + ", " + std::to_string(limits_.samples) + " from " +
        std::to_string(sizes_.window));
  }
  if (samples > 1 && noise == nullptr) {
    throw std::invalid_argument("several samples need noise, or all would be the same");
  }
  engine_->enqueue(frames, actions, candidates, horizon, samples, noise, latents, stream.get());
}

}  // namespace jepa_edge::cuda
