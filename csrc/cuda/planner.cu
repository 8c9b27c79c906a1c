// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/elite.cuh"
#include "kernels/sample.cuh"
#include "launch.hpp"
#include "objective.hpp"
#include "planner.hpp"
#include "planner/search.hpp"

namespace jepa_edge::cuda {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) noexcept {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool all_finite(std::span<const float> values) noexcept {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

LatentShape shape_of(const PlannerSettings& settings, const RolloutSizes& sizes,
                     std::size_t samples) {
  return {settings.candidates, samples, settings.horizon, sizes.tokens, sizes.latent_dim};
}

void require(bool holds, const std::string& message) {
  if (!holds) {
    throw std::invalid_argument(message);
  }
}

PlannerSettings fitting(PlannerSettings given, const DeviceRollout& rollout, std::size_t samples,
                        const DeviceNoise* noise) {
  PlannerSettings settings = checked(std::move(given));
  const Limits& limits = rollout.limits();
  require(settings.action_dim == rollout.sizes().action_dim,
          "action_dim is " + std::to_string(settings.action_dim) + ", the rollout's is " +
              std::to_string(rollout.sizes().action_dim));
  require(settings.candidates <= limits.candidates && settings.horizon <= limits.horizon &&
              samples >= 1 && samples <= limits.samples,
          "the rollout has room for " + std::to_string(limits.candidates) + " candidates, " +
              std::to_string(limits.horizon) + " steps and " + std::to_string(limits.samples) +
              " samples, got " + std::to_string(settings.candidates) + ", " +
              std::to_string(settings.horizon) + " and " + std::to_string(samples) +
              ": make it with larger limits");
  require(samples == 1 || noise != nullptr, "several samples per candidate need noise");
  return settings;
}

}  // namespace

struct Planner::Impl {
  Impl(PlannerSettings given, const ObjectiveSettings& judged, const ObjectiveData& data,
       DeviceRollout& rolled, std::size_t samples_, DeviceNoise* noise_, std::size_t goals)
      : settings(fitting(std::move(given), rolled, samples_, noise_)),
        rollout(rolled),
        samples(samples_),
        step_noise(noise_),
        objective(judged, data, shape_of(settings, rolled.sizes(), samples_), goals),
        size(settings.horizon * settings.action_dim) {
    const std::size_t all = settings.candidates * size;
    const std::size_t keep = settings.method == Method::kIcem ? settings.keep_elites : 0;
    noise_is_stored = settings.iterations * all * sizeof(float) <= kStoredNoise;
    coloring = settings.method == Method::kIcem
                   ? coloring_matrix(settings.horizon, settings.noise_beta)
                   : std::vector<double>{};

    constants = DeviceBuffer<float>(6 * settings.action_dim);
    numbers = DeviceBuffer<float>(2 * size + 2 * all + settings.candidates + keep * (size + 1));
    results = DeviceBuffer<float>(2 * size + settings.horizon + settings.iterations);
    order = DeviceBuffer<std::uint32_t>(settings.elites);
    doubles = DeviceBuffer<double>(settings.elites + size);
    state = DeviceBuffer<SearchState>(1);
    initial = DeviceBuffer<float>(size);
    latents = DeviceBuffer<float>(all / size * samples * settings.horizon * rollout.sizes().tokens *
                                  rollout.sizes().latent_dim);
    noise = DeviceBuffer<float>(noise_is_stored ? settings.iterations * all : all);
    if (!coloring.empty()) {
      white = DeviceBuffer<float>(all);
      matrix = DeviceBuffer<double>(coloring.size());
      matrix.upload(coloring);
    }
    told = PinnedBuffer<float>(results.size());
    told_state = PinnedBuffer<SearchState>(1);
    staged = PinnedBuffer<float>(size);
    lay_out(keep);
    for (const auto& [pointer, bytes] :
         {std::pair<void*, std::size_t>{numbers.data(), numbers.size() * sizeof(float)},
          {results.data(), results.size() * sizeof(float)},
          {order.data(), order.size() * sizeof(std::uint32_t)}}) {
      check(cudaMemsetAsync(pointer, 0, bytes, stream.get()), "cudaMemsetAsync");
    }
    for (std::size_t i = 0; noise_is_stored && i < settings.iterations; ++i) {
      enqueue_noise(i, nullptr, settings.candidates, noise.data() + i * all);
    }
    stream.wait();
  }

  void lay_out(std::size_t keep) {
    const std::size_t dim = settings.action_dim;
    const std::size_t all = settings.candidates * size;
    const bool bounded = !settings.low.empty();
    std::vector<float> values;
    const auto append = [&](const std::vector<float>& some) {
      values.insert(values.end(), some.begin(), some.end());
    };
    append(settings.action_mean);
    append(settings.action_std);
    append(settings.low);
    append(settings.high);
    for (const auto* limit : {&settings.low, &settings.high}) {
      for (std::size_t a = 0; a < limit->size(); ++a) {
        values.push_back(((*limit)[a] - settings.action_mean[a]) / settings.action_std[a]);
      }
    }
    constants.upload(values);
    const auto constant = [&](std::size_t i) {
      return i < 2 || bounded ? constants.data() + i * dim : nullptr;
    };
    float* next = numbers.data();
    const auto take = [&next](std::size_t count) { return std::exchange(next, next + count); };
    view.method = settings.method;
    view.candidates = static_cast<std::uint32_t>(settings.candidates);
    view.horizon = static_cast<std::uint32_t>(settings.horizon);
    view.dim = static_cast<std::uint32_t>(dim);
    view.size = static_cast<std::uint32_t>(size);
    view.elites = static_cast<std::uint32_t>(settings.elites);
    view.keep = static_cast<std::uint32_t>(keep);
    view.wanted = settings.method == Method::kMppi ? 1 : view.elites;
    view.init_std = static_cast<float>(settings.init_std);
    view.momentum = *settings.momentum;
    view.temperature = settings.temperature;
    view.noise_is_stored = noise_is_stored;
    view.returns_mean = settings.returned == Returned::kMean;
    view.action_mean = constant(0);
    view.action_std = constant(1);
    view.low = constant(2);
    view.high = constant(3);
    view.low_z = constant(4);
    view.high_z = constant(5);
    view.noise = noise.data();
    view.mean = take(size);
    view.std = take(size);
    view.z = take(all);
    view.raw = take(all);
    view.energies = take(settings.candidates);
    view.kept_z = take(keep * size);
    view.kept_energies = take(keep);
    view.order = order.data();
    view.weights = doubles.data();
    view.deviations = doubles.data() + settings.elites;
    view.actions = results.data();
    view.best_actions = results.data() + size;
    view.spread = results.data() + 2 * size;
    view.iteration_energies = view.spread + settings.horizon;
    view.state = state.data();
  }

  // ---- an iteration -----------------------------------------------------------------------------

  void enqueue_noise(std::size_t iteration, const std::uint32_t* shift, std::size_t count,
                     float* out) {
    const std::size_t numbers_drawn = count * size;
    float* drawn = coloring.empty() ? out : white.data();
    launch(draw_normals,
           {dim3(blocks_for((numbers_drawn + 3) / 4, kRandomThreads)), dim3(kRandomThreads)},
           stream.get(), settings.seed, iteration, shift, drawn, numbers_drawn);
    if (!coloring.empty()) {
      const std::size_t rows = count * settings.action_dim;
      launch(color_noise, {dim3(blocks_for(rows, kRandomThreads)), dim3(kRandomThreads)},
             stream.get(), white.data(), matrix.data(), rows, settings.horizon, settings.action_dim,
             out);
    }
  }

  void enqueue_iteration(std::size_t frames, std::size_t count, std::size_t kept) {
    const std::size_t known = settings.deterministic ? kept : 0;
    if (!noise_is_stored) {
      enqueue_noise(0, &state.data()->iteration, count, noise.data());
    }
    launch(draw_candidates, {dim3(blocks_for(count * size, kSampleThreads)), dim3(kSampleThreads)},
           stream.get(), view, count, kept);
    rollout.enqueue(frames, view.raw + known * size, count - known, settings.horizon, samples,
                    step_noise, latents.data(), stream);
    objective.enqueue(latents.data(), count - known, view.energies + known, stream);
    launch(rank_candidates, {dim3(blocks_for(count, kRankThreads)), dim3(kRankThreads)},
           stream.get(), view, count, known);
    launch(refit_distribution, {dim3(1), dim3(kRefitThreads)}, stream.get(), view, count, known);
  }

  [[nodiscard]] std::size_t kept(std::size_t iteration) const noexcept {
    return settings.method == Method::kIcem && iteration > 0 ? settings.keep_elites : 0;
  }

  /// By frames, candidates and kept elites.
  using Key = std::tuple<std::size_t, std::size_t, std::size_t>;
  [[nodiscard]] Key key(std::size_t frames, std::size_t iteration) const {
    return {frames, population(settings, iteration), kept(iteration)};
  }

  void prepare(std::size_t frames) {
    if (graphs.contains(key(frames, 0))) {
      return;
    }
    start(false);
    // A pass of each kind outside of a graph first, at the state of a search that is over.
    static constexpr PlanStatus kOver = PlanStatus::kBadRequest;
    check(cudaMemcpyAsync(&state.data()->status, &kOver, sizeof(kOver), cudaMemcpyHostToDevice,
                          stream.get()),
          "copy of a status");
    std::map<Key, Graph> captured;
    for (std::size_t i = 0; i < settings.iterations; ++i) {
      const Key wanted = key(frames, i);
      if (captured.contains(wanted)) continue;
      const auto enqueue = [&] {
        enqueue_iteration(frames, std::get<1>(wanted), std::get<2>(wanted));
      };
      enqueue();
      captured.emplace(wanted, Graph::capture(stream, enqueue));
    }
    stream.wait();
    graphs.merge(captured);
  }

  // ---- a search ---------------------------------------------------------------------------------

  void start(bool from_initial) {
    const std::size_t items = std::max(size, settings.horizon);
    launch(start_search, {dim3(blocks_for(items, kSampleThreads)), dim3(kSampleThreads)},
           stream.get(), view, from_initial ? initial.data() : nullptr);
  }

  void enqueue_state() {
    check(cudaMemcpyAsync(told_state.data(), state.data(), sizeof(SearchState),
                          cudaMemcpyDeviceToHost, stream.get()),
          "copy of the search's state");
  }

  Status set(const Context& context, std::span<const float> goals) {
    if (context.batch != 1 || context.frames < 1 || context.frames > rollout.sizes().window) {
      return Status::kBadShape;
    }
    const Status taken = objective.set_goals(goals, stream);
    const Status status = taken == Status::kOk ? rollout.set_context(context, stream) : taken;
    stream.wait();  // the pinned memory may be filled again, whatever became of the plan
    return status;
  }

  PlanResult plan(const Context& context, std::span<const float> goals,
                  const PlanRequest& request) {
    const auto begin = Clock::now();
    PlanResult result;
    result.best_energy = std::numeric_limits<float>::infinity();
    result.evaluator = set(context, goals);
    if (result.evaluator != Status::kOk) {
      result.status = PlanStatus::kEvaluatorFailed;
      return result;
    }
    const auto given = request.initial;
    if (!given.empty() && (given.size() != size || !all_finite(given))) {
      result.status = PlanStatus::kBadRequest;
      return result;
    }
    prepare(context.frames);
    if (!given.empty()) {
      std::copy(given.begin(), given.end(), staged.data());
      check(cudaMemcpyAsync(initial.data(), staged.data(), given.size_bytes(),
                            cudaMemcpyHostToDevice, stream.get()),
            "copy of the initial plan");
    }
    const auto launched = Clock::now();
    start(!given.empty());
    double slowest_s = 0.0;
    double iteration_start_s = 0.0;
    for (std::size_t i = 0; i < settings.iterations; ++i) {
      if (i > 0 && request.deadline_s && iteration_start_s + slowest_s > *request.deadline_s) {
        result.deadline_hit = true;
        break;
      }
      graphs.at(key(context.frames, i)).replay(stream);
      if (request.deadline_s) {
        enqueue_state();
        stream.wait();
        if (told_state.data()->status != PlanStatus::kOk) {
          break;
        }
        const double now_s = seconds_since(begin);
        slowest_s = std::max(slowest_s, now_s - iteration_start_s);
        iteration_start_s = now_s;
      }
    }
    finish(result);
    result.time_s = seconds_since(begin);
    result.evaluate_s = seconds_since(launched);
    return result;
  }

  void finish(PlanResult& result) {
    launch(finish_search, {dim3(blocks_for(size, kSampleThreads)), dim3(kSampleThreads)},
           stream.get(), view);
    enqueue_state();
    check(cudaMemcpyAsync(told.data(), results.data(), results.size() * sizeof(float),
                          cudaMemcpyDeviceToHost, stream.get()),
          "copy of the plan");
    stream.wait();
    const SearchState& end = *told_state.data();
    result.status = end.status;
    result.evaluator = end.evaluator;
    result.best_energy = end.best_energy;
    result.iterations = end.iteration;
    result.evaluated = end.evaluated;
    result.diverged = end.diverged;
    result.refused = end.refused;
    const std::span<const float> all = told.span();
    result.actions = all.first(size);
    result.best_actions = all.subspan(size, size);
    result.spread = all.subspan(2 * size, settings.horizon);
    result.energies = all.subspan(2 * size + settings.horizon, end.iteration);
  }

  PlannerSettings settings;
  DeviceRollout& rollout;
  std::size_t samples;
  DeviceNoise* step_noise;
  Stream stream;
  Objective objective;
  std::size_t size;  ///< H * A
  bool noise_is_stored = false;
  std::vector<double> coloring;

  DeviceBuffer<float> constants, numbers, results, initial, latents, noise, white;
  DeviceBuffer<std::uint32_t> order;
  DeviceBuffer<double> doubles, matrix;
  DeviceBuffer<SearchState> state;
  PinnedBuffer<float> told, staged;
  PinnedBuffer<SearchState> told_state;
  SearchView view{};
  std::map<Key, Graph> graphs;
};

Planner::Planner(PlannerSettings settings, const ObjectiveSettings& objective,
                 const ObjectiveData& data, DeviceRollout& rollout, std::size_t samples,
                 DeviceNoise* noise, std::size_t goals)
    : impl_(std::make_unique<Impl>(std::move(settings), objective, data, rollout, samples, noise,
                                   goals)) {}
Planner::~Planner() = default;

const PlannerSettings& Planner::settings() const noexcept { return impl_->settings; }
std::size_t Planner::samples() const noexcept { return impl_->samples; }
std::size_t Planner::goal_capacity() const noexcept { return impl_->objective.goal_capacity(); }

void Planner::reserve_goals(std::size_t goals) {
  if (goals > impl_->objective.goal_capacity()) {
    impl_->graphs.clear();
    impl_->objective.reserve_goals(goals);
  }
}

void Planner::prepare(std::size_t frames) { impl_->prepare(frames); }

PlanResult Planner::plan(const Context& context, std::span<const float> goals,
                         const PlanRequest& request) {
  return impl_->plan(context, goals, request);
}

}  // namespace jepa_edge::cuda
