// The packed forward of a decoder on the CPU: one call computes all layers of a batch that lies in one row (see packing.py).
//
// Rows go through a layer in blocks that fit the second-level cache, from the attention's output to the next layer's input: what lies
// between two products never reaches memory. The structures below are mirrored in `library.py`, which says what each field is.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

#include "attention.h"
#include "layers.h"

namespace {

constexpr int64_t BLOCK = 8 * ROWS;
constexpr int64_t PAD = 16;  // floats between rows: those of a power of two would all fall into the same sets of a cache

// Memory of one thread, kept from call to call: fresh pages would be cleared anew each time. What is in it is anything.
class Memory {
 public:
  // Asks for room of so many floats, which `place` gives; once all has been asked for.
  void want(float** room, int64_t count) {
    wanted_.emplace_back(room, needed_);
    needed_ += rounded(count, 64 / sizeof(float));
  }

  void place() {
    static thread_local std::unique_ptr<float[], void (*)(void*)> kept(nullptr, std::free);
    static thread_local int64_t held = 0;
    if (needed_ > held) {
      kept.reset();
      held = 0;
      kept.reset(static_cast<float*>(std::aligned_alloc(64, needed_ * sizeof(float))));
      if (!kept) throw std::bad_alloc();
      held = needed_;
    }
    for (auto& [room, start] : wanted_) *room = kept.get() + start;
  }

 private:
  std::vector<std::pair<float**, int64_t>> wanted_;
  int64_t needed_ = 0;
};

// Some queries of one segment, for one key head.
struct Task {
  int64_t segment, key_head, begin, end;
};

// What a thread writes on.
struct Scratch {
  float *hidden, *product, *activated, *head, *turned, *logits, *attended;
  std::vector<Run> runs;
};

class Forward {
 public:
  Forward(const Decoder& decoder, const Batch& batch)
      : decoder_(decoder),
        shape_(decoder.shape),
        batch_(batch),
        group_(shape_.heads / shape_.key_heads),
        value_stride_(rounded(shape_.head_width, COLUMNS)),
        attended_stride_(shape_.heads * shape_.head_width + PAD),
        hidden_stride_(shape_.width + PAD),
        activated_stride_(rounded(shape_.feed_forward, COLUMNS) + PAD),
        logits_stride_(batch.positions_end + 2 * COLUMNS + PAD),
        product_stride_(std::max({shape_.width, shape_.heads * shape_.head_width, 2 * shape_.key_heads * shape_.head_width}) + COLUMNS + PAD),
        every_(batch.rows),
        segment_of_(batch.rows),
        scratch_(batch.most_threads) {
    for (int64_t row = 0; row < batch.rows; ++row) every_[row] = row;
    lay_out();
    key_head_values_ = (batch.rows + cached_tokens_) * value_stride_;
    Memory memory;
    memory.want(&keys_, shape_.key_heads * panels_ * COLUMNS * shape_.head_width);
    memory.want(&values_, shape_.key_heads * key_head_values_);
    memory.want(&queries_, batch.rows * shape_.heads * shape_.head_width);
    memory.want(&attended_, batch.rows * attended_stride_);
    memory.want(&projected_, batch.distinct * (decoder.layers[0].keys_values.outputs + decoder.layers[0].queries.outputs + PAD));
    for (Scratch& mine : scratch_) {
      memory.want(&mine.hidden, BLOCK * hidden_stride_);
      memory.want(&mine.product, BLOCK * product_stride_);
      memory.want(&mine.activated, BLOCK * activated_stride_);
      memory.want(&mine.head, shape_.head_width);
      memory.want(&mine.turned, shape_.head_width);
      memory.want(&mine.logits, ROWS * logits_stride_);
      memory.want(&mine.attended, ROWS * value_stride_);
    }
    memory.place();
  }

  void run() {
    const std::vector<int64_t> last(batch_.queried, batch_.queried + batch_.queries);
    const std::vector<Task> all_tasks = tasks(every_), last_tasks = tasks(last);
    for (int64_t i = 0; i < shape_.layers; ++i) {
      const Layer& layer = decoder_.layers[i];
      const bool pruned = i == shape_.layers - 1;
      const std::vector<int64_t>& rows = pruned ? last : every_;
      read_cached(i);
      i ? project(layer, rows) : project_tokens(layer, rows);
      keep(i);
      attend(layer, rows, pruned ? last_tasks : all_tasks);
      finish(layer, rows);
    }
    for (int64_t row : last) {
      float* states = batch_.states + row * shape_.width;
      normalise(states, shape_.width, decoder_.final, shape_, states);
    }
  }

 private:
  // Calls work(i, scratch) for i in [0, count).
  template <class Work>
  void parallel(int64_t count, Work work) {
    [[maybe_unused]] const int threads = std::min<int64_t>({*batch_.threads, count, batch_.most_threads});
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) work(i, scratch_[thread()]);
  }

  static int thread() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
  }

  // Calls work(first, count, scratch) for pieces of at most BLOCK of `all`.
  template <class Work>
  void pieces(int64_t all, Work work) {
    parallel((all + BLOCK - 1) / BLOCK, [&](int64_t piece, Scratch& mine) {
      work(piece * BLOCK, std::min(BLOCK, all - piece * BLOCK), mine);
    });
  }

  // The same for `rows`, with `hidden` normalised from their states.
  template <class Work>
  void blocks(const std::vector<int64_t>& rows, const Norm& norm, Work work) {
    pieces(rows.size(), [&](int64_t first, int64_t count, Scratch& mine) {
      normalise_rows(rows, first, count, norm, mine);
      work(first, count, mine);
    });
  }

  void normalise_rows(const std::vector<int64_t>& rows, int64_t first, int64_t count, const Norm& norm, Scratch& mine) {
    for (int64_t i = 0; i < count; ++i) {
      const float* states = batch_.states + rows[first + i] * shape_.width;
      normalise(states, shape_.width, norm, shape_, mine.hidden + i * hidden_stride_);
    }
  }

  // Where each segment's keys and values lie.
  void lay_out() {
    for (int64_t s = 0; s < batch_.segments; ++s) {
      first_panel_.push_back(panels_);
      panels_ += rounded(batch_.tokens[s], COLUMNS) / COLUMNS;
      if (batch_.cached[s * shape_.layers * 2]) {
        first_value_.push_back(batch_.rows + cached_tokens_);
        cached_tokens_ += batch_.tokens[s];
        continue;
      }
      first_value_.push_back(batch_.starts[s]);
      for (int64_t i = 0; i < batch_.tokens[s]; ++i) segment_of_[batch_.starts[s] + i] = s;
    }
  }

  float* key(int64_t key_head, int64_t segment, int64_t token) {
    const int64_t panel = key_head * panels_ + first_panel_[segment] + token / COLUMNS;
    return keys_ + panel * COLUMNS * shape_.head_width + token % COLUMNS;
  }

  float* value(int64_t key_head, int64_t segment, int64_t token) {
    return values_ + key_head * key_head_values_ + (first_value_[segment] + token) * value_stride_;
  }

  void put(int64_t key_head, int64_t segment, int64_t token, const float* its_key, const float* its_value) {
    float* panel = key(key_head, segment, token);
    for (int64_t i = 0; i < shape_.head_width; ++i) panel[i * COLUMNS] = its_key[i];
    std::memcpy(value(key_head, segment, token), its_value, shape_.head_width * sizeof(float));
  }

  void read_cached(int64_t layer) {
    parallel(batch_.segments, [&](int64_t segment, Scratch&) {
      const float* const* from = batch_.cached + (segment * shape_.layers + layer) * 2;
      if (!from[0]) return;
      const int64_t tokens = batch_.tokens[segment], width = shape_.head_width;
      for (int64_t head = 0; head < shape_.key_heads; ++head) {
        for (int64_t token = 0; token < tokens; ++token) {
          const int64_t place = head * batch_.cached_strides[segment] + token * width;
          put(head, segment, token, from[0] + place, from[1] + place);
        }
      }
    });
  }

  // Copies the keys and values of segments that the prefix cache keeps.
  void keep(int64_t layer) {
    parallel(batch_.segments, [&](int64_t segment, Scratch&) {
      float* const* to = batch_.kept + (segment * shape_.layers + layer) * 2;
      if (!to[0]) return;
      const int64_t tokens = batch_.tokens[segment], width = shape_.head_width;
      for (int64_t head = 0; head < shape_.key_heads; ++head) {
        for (int64_t token = 0; token < tokens; ++token) {
          const int64_t place = (head * tokens + token) * width;
          const float* panel = key(head, segment, token);
          for (int64_t i = 0; i < width; ++i) to[0][place + i] = panel[i * COLUMNS];
          std::memcpy(to[1] + place, value(head, segment, token), width * sizeof(float));
        }
      }
    });
  }

  // Keys and values of all rows, and queries of `rows`.
  void project(const Layer& layer, const std::vector<int64_t>& rows) {
    const bool pruned = rows.size() < every_.size();
    blocks(every_, layer.before_attention, [&](int64_t first, int64_t count, Scratch& mine) {
      multiply(mine.hidden, hidden_stride_, count, layer.keys_values, mine.product, product_stride_);
      for (int64_t i = 0; i < count; ++i) take_keys_values(layer, first + i, mine.product + i * product_stride_, mine);
      if (!pruned) project_queries(layer, rows, first, count, mine);
    });
    if (!pruned) return;
    blocks(rows, layer.before_attention, [&](int64_t first, int64_t count, Scratch& mine) {
      project_queries(layer, rows, first, count, mine);
    });
  }

  void project_queries(const Layer& layer, const std::vector<int64_t>& rows, int64_t first, int64_t count, Scratch& mine) {
    multiply(mine.hidden, hidden_stride_, count, layer.queries, mine.product, product_stride_);
    for (int64_t i = 0; i < count; ++i) take_queries(layer, rows, first + i, mine.product + i * product_stride_, mine);
  }

  // The same for the first layer: before any token has met another, equal tokens have equal projections.
  void project_tokens(const Layer& layer, const std::vector<int64_t>& rows) {
    const int64_t queries = layer.keys_values.outputs, stride = queries + layer.queries.outputs + PAD;
    const std::vector<int64_t> examples(batch_.examples, batch_.examples + batch_.distinct);
    blocks(examples, layer.before_attention, [&](int64_t first, int64_t count, Scratch& mine) {
      multiply(mine.hidden, hidden_stride_, count, layer.keys_values, projected_ + first * stride, stride);
      multiply(mine.hidden, hidden_stride_, count, layer.queries, projected_ + first * stride + queries, stride);
    });
    pieces(batch_.rows, [&](int64_t first, int64_t count, Scratch& mine) {
      for (int64_t row = first; row < first + count; ++row) take_keys_values(layer, row, projected_ + batch_.kinds[row] * stride, mine);
    });
    pieces(rows.size(), [&](int64_t first, int64_t count, Scratch& mine) {
      for (int64_t i = first; i < first + count; ++i) {
        take_queries(layer, rows, i, projected_ + batch_.kinds[rows[i]] * stride + queries, mine);
      }
    });
  }

  void take_keys_values(const Layer& layer, int64_t row, const float* heads, Scratch& mine) {
    const int64_t segment = segment_of_[row];
    for (int64_t head = 0; head < shape_.key_heads; ++head) {
      const float *its_key = heads + head * shape_.head_width, *its_value = its_key + shape_.key_heads * shape_.head_width;
      turn(its_key, row, layer, layer.key, 1.0f, mine, mine.turned);
      put(head, segment, row - batch_.starts[segment], mine.turned, its_value);
    }
  }

  // Queries lie by key head, then by row, then by the heads of its group: a tile of them meets the same keys.
  void take_queries(const Layer& layer, const std::vector<int64_t>& rows, int64_t query, const float* heads, Scratch& mine) {
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const int64_t place = (head / group_ * int64_t(rows.size()) + query) * group_ + head % group_;
      float* to = queries_ + place * shape_.head_width;
      turn(heads + head * shape_.head_width, rows[query], layer, layer.query, shape_.scale * LOG2_E, mine, to);
    }
  }

  // A head's query or key as attention takes it.
  void turn(const float* from, int64_t row, const Layer& layer, const Norm& norm, float scale, Scratch& mine, float* to) {
    if (norm.weight) {
      normalise(from, shape_.head_width, norm, shape_, mine.head);
      from = mine.head;
    }
    const int64_t at = (layer.rope * batch_.rows + row) * shape_.rotary_width;
    rotate(from, shape_.head_width, batch_.cosines + at, batch_.sines + at, shape_.rotary_width, scale, to);
  }

  // The queries of `rows`, cut into pieces of one segment and one key head.
  std::vector<Task> tasks(const std::vector<int64_t>& rows) const {
    std::vector<Task> found;
    for (size_t begin = 0, end; begin < rows.size(); begin = end) {
      const int64_t segment = segment_of_[rows[begin]];
      for (end = begin; end < rows.size() && segment_of_[rows[end]] == segment && end - begin < static_cast<size_t>(BLOCK); ++end) {
      }
      for (int64_t head = 0; head < shape_.key_heads; ++head) found.push_back(Task{segment, head, int64_t(begin), int64_t(end)});
    }
    return found;
  }

  void attend(const Layer& layer, const std::vector<int64_t>& rows, const std::vector<Task>& pieces) {
    const Rules rules{shape_.head_width, value_stride_, layer.window, shape_.softcap * LOG2_E};
    const int64_t key_head_queries = rows.size() * group_ * shape_.head_width;
    parallel(pieces.size(), [&](int64_t number, Scratch& mine) {
      const Task& task = pieces[number];
      mine.runs.clear();
      for (int64_t i = batch_.path_starts[task.segment]; i < batch_.path_starts[task.segment + 1]; ++i) {
        const int64_t s = batch_.paths[i];
        mine.runs.push_back(Run{key(task.key_head, s, 0), value(task.key_head, s, 0), batch_.offsets[s], batch_.tokens[s]});
      }
      const float* queries = queries_ + task.key_head * key_head_queries;
      for (int64_t first = task.begin * group_; first < task.end * group_; first += ROWS) {
        const int64_t count = std::min<int64_t>(ROWS, task.end * group_ - first);
        int64_t positions[ROWS];
        for (int64_t i = 0; i < count; ++i) positions[i] = batch_.positions[rows[(first + i) / group_]];
        ::attend(queries + first * shape_.head_width, positions, count, mine.runs.data(), mine.runs.size(), rules, mine.logits,
                 logits_stride_, mine.attended);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t query = (first + i) / group_, head = task.key_head * group_ + (first + i) % group_;
          std::memcpy(attended_ + query * attended_stride_ + head * shape_.head_width, mine.attended + i * value_stride_,
                      shape_.head_width * sizeof(float));
        }
      }
    });
  }

  // Adds a block's product, normalised where the model does that, to the states of its rows.
  void add(const std::vector<int64_t>& rows, int64_t first, int64_t count, const Norm& norm, Scratch& mine) {
    for (int64_t i = 0; i < count; ++i) {
      float *more = mine.product + i * product_stride_, *states = batch_.states + rows[first + i] * shape_.width;
      if (norm.weight) normalise(more, shape_.width, norm, shape_, more);
      for (int64_t j = 0; j < shape_.width; ++j) states[j] += more[j];
    }
  }

  // From the attention's output to the next layer's input.
  void finish(const Layer& layer, const std::vector<int64_t>& rows) {
    blocks(rows, layer.before_mlp, [&](int64_t first, int64_t count, Scratch& mine) {
      multiply(attended_ + first * attended_stride_, attended_stride_, count, layer.output, mine.product, product_stride_);
      add(rows, first, count, layer.after_attention, mine);
      // A parallel feed-forward block reads the states from before the attention: those that `blocks` has normalised.
      if (!shape_.parallel) normalise_rows(rows, first, count, layer.before_mlp, mine);
      activate(layer.up, count, mine);
      multiply(mine.activated, activated_stride_, count, layer.down, mine.product, product_stride_);
      add(rows, first, count, layer.after_mlp, mine);
    });
  }

  // A gated block's panels hold LANES columns of the gate beside the same LANES columns of what it gates.
  void activate(const Weights& up, int64_t count, Scratch& mine) {
    alignas(64) float found[ROWS * COLUMNS];
    each_tile(count, up, [&](Tile product, int64_t row, int64_t rows, int64_t column) {
      product(mine.hidden + row * hidden_stride_, hidden_stride_, up.panels + column * up.inputs, COLUMNS, up.inputs,
              up.bias + column, 0, found, COLUMNS);
      for (int64_t i = 0; i < rows; ++i) {
        float* to = mine.activated + (row + i) * activated_stride_;
        const Vector left = activated(load(found + i * COLUMNS), shape_.activation), right = load(found + i * COLUMNS + LANES);
        if (shape_.gated) {
          store(to + column / 2, left * right);
        } else {
          store(to + column, left);
          store(to + column + LANES, activated(right, shape_.activation));
        }
      }
    });
  }

  const Decoder& decoder_;
  const Shape& shape_;
  const Batch& batch_;
  const int64_t group_, value_stride_, attended_stride_, hidden_stride_, activated_stride_, logits_stride_, product_stride_;
  int64_t key_head_values_ = 0, panels_ = 0, cached_tokens_ = 0;
  std::vector<int64_t> every_, segment_of_, first_panel_, first_value_;
  float *keys_, *values_, *queries_, *attended_, *projected_;
  std::vector<Scratch> scratch_;
};

}  // namespace

// 0, or 1 when there was no memory for it.
extern "C" int rewardmesh_forward(const Decoder* decoder, const Batch* batch) {
  try {
    Forward(*decoder, *batch).run();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// [rows, inputs] times the weights, plus bias: [rows, outputs], of which those beyond the matrix are padding.
extern "C" void rewardmesh_multiply(const float* a, int64_t rows, const Weights* weights, float* to) {
  multiply(a, weights->inputs, rows, *weights, to, weights->outputs);
}

// Size of a structure in bytes, 0 for a name that is none.
extern "C" int64_t rewardmesh_size(const char* name) {
  const std::string_view wanted(name);
  if (wanted == "Shape") return sizeof(Shape);
  if (wanted == "Layer") return sizeof(Layer);
  if (wanted == "Decoder") return sizeof(Decoder);
  return wanted == "Batch" ? sizeof(Batch) : 0;
}

// Lanes of a vector: panels are twice as wide.
extern "C" int64_t rewardmesh_lanes() { return LANES; }
