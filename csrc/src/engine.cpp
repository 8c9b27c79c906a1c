// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/engine.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "arena.hpp"
#include "jepa_edge/thread_pool.hpp"
#include "packed.hpp"
#include "pass.hpp"

namespace jepa_edge {
namespace {

/// Rows that a worker takes through a layer at once: enough to read each weight rarely, few enough
/// for its activations to stay in a second-level cache of 1 MB. Measured on Zen 4: 96 to 240 are
/// within a few percent of each other.
constexpr std::size_t kPassRows = 160;

bool all_finite(std::span<const float> values) noexcept {
  constexpr std::uint32_t kExponent = 0x7F800000U;
  std::uint32_t bad = 0;
  for (const float value : values) {
    bad |= (std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent ? 1U : 0U;
  }
  return bad == 0;
}

}  // namespace

struct RolloutEngine::Impl {
  /// What one worker holds: a tile of candidates on its way through all steps.
  struct Worker {
    Workspace workspace;
    float* actions;   ///< z-scored actions of a chunk
    float* embedded;  ///< hidden layer of the action embedding, then the condition
    float* condition;
    float* keys;        ///< [layer][group][slot][key, value][tile row][group stride]
    float* modulation;  ///< [slot][layer][tile candidate][record]
    float* latent_in;   ///< latents plus positions, where they are projected before the first layer
    std::vector<PassFrame> frames;
  };

  Impl(std::shared_ptr<const Predictor> shared, const Limits& asked)
      : predictor(std::move(shared)),
        model(predictor->packed()),
        table(*model.table),
        sizes(model.sizes),
        limits(asked),
        pool(asked.threads) {
    tile_rows = std::max(kPassRows, limits.samples * sizes.tokens);
    tile_candidates =
        std::min(limits.candidates, std::max<std::size_t>(1, kPassRows / sizes.tokens));
    pass_rows = std::max(kPassRows, sizes.window * limits.samples * sizes.tokens);
    record = padded(table, 6 * sizes.dim);
    latent = sizes.tokens * sizes.latent_dim;
    const std::size_t groups = sizes.heads / model.heads_together;
    const std::size_t group_stride = padded(table, model.heads_together * sizes.head_dim);

    history.resize(limits.candidates * sizes.window * latent);
    past.resize(limits.candidates * sizes.window * sizes.action_dim);
    values = tile_rows * group_stride;
    keys_slot = 2 * values;
    keys_group = sizes.window * keys_slot;
    keys_layer = groups * keys_group;
    modulation_layer = tile_candidates * record;
    modulation_slot = sizes.depth * modulation_layer;
    for (std::size_t i = 0; i < limits.threads; ++i) {
      Worker worker{
          Workspace(arena, model, pass_rows),
          arena.take<float>(pass_rows * sizes.action_dim),
          arena.take<float>(pass_rows * padded(table, sizes.action_hidden)),
          arena.take<float>(pass_rows * padded(table, sizes.dim)),
          arena.take<float>(sizes.depth * keys_layer),
          arena.take<float>(sizes.window * modulation_slot),
          sizes.latent_dim == sizes.dim ? nullptr : arena.take<float>(pass_rows * sizes.latent_dim),
          {}};
      worker.frames.resize(sizes.window);
      workers.push_back(std::move(worker));
    }
    shared_values = sizes.tokens * group_stride;
    shared_group = sizes.window * 2 * shared_values;
    shared_layer = groups * shared_group;
    shared_stage = sizes.depth * shared_layer;
    shared_keys = arena.take<float>(sizes.window * shared_stage);
    shared_modulation = arena.take<float>(sizes.window * sizes.depth * record);
    staged.resize(sizes.window);
  }

  // ---- what all candidates share ----------------------------------------------------------------

  Status set_context(const Context& context) noexcept {
    frames = 0;
    const std::size_t T = context.frames;
    if (T < 1 || T > sizes.window || context.batch < 1 || context.batch > limits.candidates ||
        context.history.size() != context.batch * T * latent ||
        context.past_actions.size() != context.batch * (T - 1) * sizes.action_dim) {
      return Status::kBadShape;
    }
    if (!all_finite(context.history) || !all_finite(context.past_actions)) {
      return Status::kNonFiniteInput;
    }
    std::copy(context.history.begin(), context.history.end(), history.begin());
    std::copy(context.past_actions.begin(), context.past_actions.end(), past.begin());
    frames = T;
    batch = context.batch;
    std::fill(staged.begin(), staged.end(), false);
    if (batch == 1 && T > 1) {
      modulate(workers[0], past.data(), sizes.action_dim, T - 1, shared_modulation,
               (sizes.window) * record);
    }
    return Status::kOk;
  }

  /// The first frame that differs between candidates.
  [[nodiscard]] std::size_t first_own() const noexcept { return batch > 1 ? 0 : frames - 1; }

  /// Keys and values of the shared frames for windows that start at frame `start`: positions move
  /// with the window, so that every start needs its own.
  void stage(std::size_t start) noexcept {
    if (start >= first_own() || staged[start]) return;
    Worker& worker = workers[0];
    const std::size_t count = first_own() - start;
    for (std::size_t i = 0; i < count; ++i) {
      embed(worker, history.data() + (start + i) * latent, 0, 1, i, i * sizes.tokens);
      worker.frames[i] = shared_frame(start, i);
      worker.frames[i].compute = true;
    }
    project(worker, count * sizes.tokens);
    run_pass(model, worker.workspace, {worker.frames.data(), count}, count * sizes.tokens, false);
    staged[start] = true;
  }

  [[nodiscard]] PassFrame shared_frame(std::size_t start, std::size_t position) const noexcept {
    PassFrame frame{};
    frame.position = position;
    frame.items = 1;
    frame.row = position * sizes.tokens;
    frame.keep = true;
    frame.modulation = shared_modulation + (start + position) * record;
    frame.modulation_layer = sizes.window * record;
    frame.modulation_stride = record;
    frame.per_record = sizes.tokens;
    frame.keys = shared_keys + start * shared_stage + position * 2 * shared_values;
    frame.values = shared_values;
    frame.keys_layer = shared_layer;
    frame.keys_group = shared_group;
    return frame;
  }

  // ---- candidates -------------------------------------------------------------------------------

  Status rollout(const Request& request, std::span<float> latents) noexcept {
    const std::size_t S = request.candidates;
    const std::size_t H = request.horizon;
    const std::size_t M = request.samples;
    if (frames == 0 || S < 1 || H < 1 || M < 1 || S > limits.candidates || H > limits.horizon ||
        M > limits.samples || (batch > 1 && batch != S) ||
        request.actions.size() != S * H * sizes.action_dim ||
        (!request.start.empty() && request.start.size() != S * latent) ||
        latents.size() != S * M * H * latent) {
      return Status::kBadShape;
    }
    if (!all_finite(request.actions) || !all_finite(request.start)) return Status::kNonFiniteInput;
    for (std::size_t step = 0; step < H; ++step) {
      const std::size_t start = window_start(step);
      if (start < first_own()) stage(start);
    }
    const std::size_t room =
        std::min(tile_candidates, std::max<std::size_t>(1, tile_rows / (M * sizes.tokens)));
    // As many tiles as a multiple of the threads, of nearly equal size.
    std::size_t tiles = (S + room - 1) / room;
    tiles = std::min(S, (tiles + limits.threads - 1) / limits.threads * limits.threads);
    std::atomic<bool> finite{true};
    pool.run(tiles, [&](std::size_t worker, std::size_t tile) noexcept {
      const std::size_t first = tile * S / tiles;
      const std::size_t end = (tile + 1) * S / tiles;
      if (!roll_tile(worker, request, first, end - first, latents.data())) {
        finite.store(false, std::memory_order_relaxed);
      }
    });
    return finite.load() ? Status::kOk : Status::kNonFiniteOutput;
  }

  [[nodiscard]] std::size_t window_start(std::size_t step) const noexcept {
    const std::size_t end = frames + step;
    return end > sizes.window ? end - sizes.window : 0;
  }

  /// Takes candidates [first, first + count) through all steps.
  bool roll_tile(std::size_t worker, const Request& request, std::size_t first, std::size_t count,
                 float* latents) noexcept {
    bool finite = true;
    for (std::size_t step = 0; step < request.horizon; ++step) {
      const std::size_t end = frames + step;
      const std::size_t oldest = oldest_computed(step);
      std::size_t rows = 0;  // per candidate
      for (std::size_t j = oldest; j < end; ++j) {
        rows += sizes.tokens * (j < frames ? 1 : request.samples);
      }
      const std::size_t together = std::max<std::size_t>(1, pass_rows / rows);
      const std::size_t chunks = (count + together - 1) / together;
      for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
        const std::size_t begin = chunk * count / chunks;
        const std::size_t stop = (chunk + 1) * count / chunks;
        finite &= roll_chunk(worker, request, step, first, begin, stop - begin, latents);
      }
    }
    if (request.sink != nullptr) {
      request.sink->finished(first, count,
                             latents + first * request.samples * request.horizon * latent);
    }
    return finite;
  }

  /// The oldest frame whose keys and values a step computes: all of its own frames when the window
  /// moved (learned positions move with it), else the newest alone.
  [[nodiscard]] std::size_t oldest_computed(std::size_t step) const noexcept {
    const bool moved = step == 0 || window_start(step) != window_start(step - 1);
    return moved ? std::max(window_start(step), first_own()) : frames + step - 1;
  }

  /// One step of candidates [first + begin, first + begin + count) of the tile that starts at
  /// `first`. Returns whether all that came out is finite.
  bool roll_chunk(std::size_t index, const Request& request, std::size_t step, std::size_t first,
                  std::size_t begin, std::size_t count, float* latents) noexcept {
    Worker& worker = workers[index];
    const std::size_t M = request.samples;
    const std::size_t H = request.horizon;
    const std::size_t T = frames;
    const std::size_t start = window_start(step);
    const std::size_t end = T + step;
    const std::size_t oldest = oldest_computed(step);
    const std::size_t candidate = first + begin;
    const bool keep = step + 1 < H && window_start(step + 1) == start;
    const bool whole = oldest == std::max(start, first_own());
    const std::size_t row_stride = H * latent;  // from one future's latents to the next one's

    // Modulations of the actions that enter the window now.
    for (std::size_t j = step == 0 ? std::max(start, first_own()) : end - 1; j < end; ++j) {
      const bool is_past = j + 1 < T;
      const float* actions =
          is_past ? past.data() + (candidate * (T - 1) + j) * sizes.action_dim
                  : request.actions.data() + (candidate * H + j - (T - 1)) * sizes.action_dim;
      modulate(worker, actions, (is_past ? T - 1 : H) * sizes.action_dim, count,
               worker.modulation + j % sizes.window * modulation_slot + begin * record,
               modulation_layer);
    }

    std::size_t frame_count = 0;
    for (std::size_t j = start; j < std::min(first_own(), end); ++j) {
      worker.frames[frame_count++] = shared_frame(start, j - start);
    }
    std::size_t row = 0;
    for (std::size_t j = std::max(start, first_own()); j < end; ++j) {
      const std::size_t per_candidate = j < T ? 1 : M;
      // Where nothing is kept, every chunk and every layer computes in the same, warm memory.
      const std::size_t item = whole && !keep ? 0 : begin * per_candidate;
      PassFrame frame{};
      frame.position = j - start;
      frame.items = count * per_candidate;
      frame.compute = j >= oldest;
      frame.keep = keep;
      frame.row = row;
      frame.modulation = worker.modulation + j % sizes.window * modulation_slot + begin * record;
      frame.modulation_layer = modulation_layer;
      frame.modulation_stride = record;
      frame.per_record = per_candidate * sizes.tokens;
      frame.keys = worker.keys + j % sizes.window * keys_slot +
                   item * sizes.tokens * worker.workspace.group_stride;
      frame.values = values;
      frame.keys_layer = frame.compute && !keep ? 0 : keys_layer;
      frame.keys_group = keys_group;
      worker.frames[frame_count++] = frame;
      if (!frame.compute) continue;
      const float* from;
      std::size_t stride;
      if (j >= T) {
        from = latents + (candidate * M * H + j - T) * latent;
        stride = row_stride;
      } else if (j + 1 == T && !request.start.empty()) {
        from = request.start.data() + candidate * latent;
        stride = latent;
      } else {
        from = history.data() + ((batch > 1 ? candidate * T : 0) + j) * latent;
        stride = batch > 1 ? T * latent : 0;
      }
      embed(worker, from, stride, frame.items, frame.position, row);
      row += frame.items * sizes.tokens;
    }
    project(worker, row);
    run_pass(model, worker.workspace, {worker.frames.data(), frame_count}, row, true);
    return emit(index, request, step, candidate, count, worker.frames[frame_count - 1], latents);
  }

  /// Hands the predicted latents on: to all samples of a candidate, through the noise.
  bool emit(std::size_t index, const Request& request, std::size_t step, std::size_t candidate,
            std::size_t count, const PassFrame& newest, float* latents) noexcept {
    const Workspace& workspace = workers[index].workspace;
    const std::size_t M = request.samples;
    const std::size_t H = request.horizon;
    const std::size_t stride = H * latent;
    float* out = latents + (candidate * M * H + step) * latent;
    const std::size_t copies = count * M / newest.items;
    for (std::size_t row = 0; row < count * M; ++row) {
      const float* from =
          workspace.delta + (newest.row + row / copies * sizes.tokens) * workspace.stride;
      for (std::size_t token = 0; token < sizes.tokens; ++token) {
        std::copy_n(from + token * workspace.stride, sizes.latent_dim,
                    out + row * stride + token * sizes.latent_dim);
      }
    }
    if (request.noise != nullptr) {
      StepRows rows{};
      rows.worker = index;
      rows.step = step;
      rows.candidate = candidate;
      rows.candidates = count;
      rows.samples = M;
      rows.latents = out;
      rows.stride = stride;
      if (step > 0) {
        rows.before = out - latent;
        rows.before_stride = stride;
        rows.before_divisor = 1;
      } else if (!request.start.empty()) {
        rows.before = request.start.data() + candidate * latent;
        rows.before_stride = latent;
        rows.before_divisor = M;
      } else {
        rows.before = history.data() + ((batch > 1 ? candidate * frames : 0) + frames - 1) * latent;
        rows.before_stride = batch > 1 ? frames * latent : 0;
        rows.before_divisor = M;
      }
      rows.actions = request.actions.data() + (candidate * H + step) * sizes.action_dim;
      rows.action_stride = H * sizes.action_dim;
      request.noise->apply(rows);
    }
    bool finite = true;
    for (std::size_t row = 0; row < count * M; ++row) {
      finite &= all_finite({out + row * stride, latent});
    }
    return finite;
  }

  // ---- inputs -----------------------------------------------------------------------------------

  /// AdaLN modulations of `count` actions, layer by layer: they depend on nothing else. Samples of
  /// the present under one action share its modulation.
  void modulate(Worker& worker, const float* actions, std::size_t stride, std::size_t count,
                float* out, std::size_t layer_stride) noexcept {
    const std::size_t A = sizes.action_dim;
    std::size_t same = 1;
    while (same < count && std::equal(actions, actions + A, actions + same * stride)) ++same;
    if (count > 1 && same == count) {
      modulate(worker, actions, stride, 1, out, layer_stride);
      for (std::size_t layer = 0; layer < sizes.depth; ++layer) {
        float* first = out + layer * layer_stride;
        for (std::size_t i = 1; i < count; ++i) std::copy_n(first, record, first + i * record);
      }
      return;
    }
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t a = 0; a < A; ++a) {
        worker.actions[i * A + a] =
            (actions[i * stride + a] - model.action_mean[a]) * model.action_inv_std[a];
      }
    }
    Workspace& w = worker.workspace;
    const auto run = [&](const PackedLinear& layer, float* rows, std::size_t columns,
                         kernels::Activation activation, float* to, std::size_t to_stride) {
      const auto left =
          operand(table, layer.precision, rows, columns, count, layer.inputs, activation, w.inner);
      apply(table, layer, left, count, to, to_stride);
      return left;
    };
    const std::size_t hidden = padded(table, sizes.action_hidden);
    const std::size_t wide = padded(table, sizes.dim);
    run(model.action_in, worker.actions, A, kernels::Activation::kNone, worker.embedded, hidden);
    run(model.condition, worker.embedded, hidden, kernels::Activation::kSilu, worker.condition,
        wide);
    const auto left = operand(table, model.precision, worker.condition, wide, count, sizes.dim,
                              kernels::Activation::kSilu, w.inner);
    for (std::size_t layer = 0; layer < sizes.depth; ++layer) {
      apply(table, model.blocks[layer].modulation, left, count, out + layer * layer_stride, record);
    }
  }

  /// Latents plus positions into the rows of a pass.
  void embed(Worker& worker, const float* from, std::size_t stride, std::size_t items,
             std::size_t position, std::size_t row) noexcept {
    const std::size_t D = sizes.latent_dim;
    const bool direct = worker.latent_in == nullptr;
    float* to = direct ? worker.workspace.x : worker.latent_in;
    const std::size_t to_stride = direct ? worker.workspace.stride : D;
    const float* places = model.position + position * latent;
    for (std::size_t item = 0; item < items; ++item) {
      for (std::size_t token = 0; token < sizes.tokens; ++token) {
        const float* latent_row = from + item * stride + token * D;
        float* x = to + (row + item * sizes.tokens + token) * to_stride;
        for (std::size_t d = 0; d < D; ++d) x[d] = latent_row[d] + places[token * D + d];
      }
    }
  }

  /// The linear layer before the first block, where the widths differ.
  void project(Worker& worker, std::size_t rows) noexcept {
    if (worker.latent_in == nullptr) return;
    Workspace& w = worker.workspace;
    const auto left = operand(table, model.input.precision, worker.latent_in, sizes.latent_dim,
                              rows, sizes.latent_dim, kernels::Activation::kNone, w.inner);
    apply(table, model.input, left, rows, w.x, w.stride);
  }

  std::shared_ptr<const Predictor> predictor;
  const Predictor::Packed& model;
  const kernels::Kernels& table;
  const PredictorSizes& sizes;
  Limits limits;
  ThreadPool pool;
  Arena arena;
  std::vector<Worker> workers;

  std::size_t tile_rows, tile_candidates, pass_rows;
  std::size_t record;  ///< floats of one action's modulation of one layer
  std::size_t latent;  ///< floats of one frame's latent
  std::size_t values, keys_slot, keys_group, keys_layer;
  std::size_t modulation_layer, modulation_slot;

  std::size_t frames = 0;  ///< T; 0 before a context is set
  std::size_t batch = 1;
  std::vector<float> history, past;
  std::size_t shared_values, shared_group, shared_layer, shared_stage;
  float* shared_keys;        ///< [stage][layer][group][frame][key, value][token][group stride]
  float* shared_modulation;  ///< [layer][frame][record]
  std::vector<bool> staged;
};

RolloutEngine::RolloutEngine(std::shared_ptr<const Predictor> predictor, const Limits& limits) {
  if (predictor == nullptr || limits.candidates < 1 || limits.horizon < 1 || limits.samples < 1 ||
      limits.threads < 1) {
    throw std::invalid_argument("an engine needs a predictor and limits of at least 1");
  }
  impl_ = std::make_unique<Impl>(std::move(predictor), limits);
}
RolloutEngine::~RolloutEngine() = default;

const Predictor& RolloutEngine::predictor() const noexcept { return *impl_->predictor; }
const Limits& RolloutEngine::limits() const noexcept { return impl_->limits; }
Status RolloutEngine::set_context(const Context& context) noexcept {
  return impl_->set_context(context);
}
Status RolloutEngine::rollout(const Request& request, std::span<float> latents) noexcept {
  return impl_->rollout(request, latents);
}

}  // namespace jepa_edge
